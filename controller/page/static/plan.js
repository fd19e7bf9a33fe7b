// The site from above: streets as the traced points coloured by path gain, what stands between them, arrays, zones, and
// the users where they say they are. What stands still is drawn once per size and kept.
"use strict";

const GAINS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
const TRAIL = 120;
const MARGIN_M = 8;

let site = null;
let ground = null;
const trails = new Map();

function gainColour(share) {
  const at = Math.min(Math.max(share, 0), 1) * (GAINS.length - 1);
  const low = Math.min(Math.floor(at), GAINS.length - 2);
  const mix = GAINS[low].map((one, k) => Math.round(one + (GAINS[low + 1][k] - one) * (at - low)));
  return `rgb(${mix.join(" ")})`;
}

// What is shown of the site, in metres.
function bounds() {
  const arrays = [site.bs, site.ris].filter(Boolean).map((one) => one.position_m);
  const places = [...site.points_m, ...site.indoors_m, ...arrays];
  const xs = places.map((place) => place[0]);
  const ys = places.map((place) => place[1]);
  const least = (values) => values.reduce((a, b) => Math.min(a, b)) - MARGIN_M;
  const most = (values) => values.reduce((a, b) => Math.max(a, b)) + MARGIN_M;
  return [least(xs), most(xs), least(ys), most(ys)];
}

// From metres to pixels of a canvas: the whole site, as large as it fits, north upwards.
function viewOf(width, height) {
  const [west, east, south, north] = bounds();
  const scale = Math.min(width / (east - west), height / (north - south));
  const left = (width - scale * (east - west)) / 2;
  const top = (height - scale * (north - south)) / 2;
  return { scale, west, east, south, north, x: (x) => left + scale * (x - west), y: (y) => top + scale * (north - y) };
}

function drawGround(width, height, ratio) {
  const canvas = document.createElement("canvas");
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  const view = viewOf(width, height);
  const side = Math.max(view.scale * site.spacing_m, 1.5);
  const square = (place, size) => context.fillRect(view.x(place[0]) - size / 2, view.y(place[1]) - size / 2, size, size);
  context.fillStyle = colour("--line");
  site.indoors_m.forEach((place) => square(place, side + 0.5));
  const known = site.gain_db.filter((gain) => gain !== null).sort((a, b) => a - b);
  const [low, high] = [known[Math.floor(known.length * 0.02)], known[known.length - 1]];
  site.points_m.forEach((place, k) => {
    const gain = site.gain_db[k];
    context.fillStyle = gain === null ? colour("--soft") : gainColour((gain - low) / (high - low || 1));
    context.globalAlpha = 0.8;
    square(place, gain === null ? side / 4 : side * 0.86);
    context.globalAlpha = 1;
  });
  if (site.zone_m) drawZones(context, view);
  drawStation(context, view);
  if (site.ris) drawRisPanel(context, view);
  drawScale(context, view, width, height);
  set("least", known.length ? `path gain ${low.toFixed(0)} dB` : "no path anywhere");
  set("most", known.length ? `${high.toFixed(0)} dB` : "");
  return { canvas, view, width, height, ratio };
}

function drawZones(context, view) {
  const zones = new Set(site.points_m.map(([x, y]) => `${Math.floor(x / site.zone_m)}:${Math.floor(y / site.zone_m)}`));
  context.strokeStyle = colour("--warn");
  context.fillStyle = colour("--warn");
  context.font = "10px system-ui";
  context.setLineDash([3, 4]);
  for (const zone of zones) {
    const [column, row] = zone.split(":").map(Number);
    const [x, y] = [view.x(column * site.zone_m), view.y((row + 1) * site.zone_m)];
    context.strokeRect(x, y, view.scale * site.zone_m, view.scale * site.zone_m);
    context.fillText(zone, x + 3, y + 11);
  }
  context.setLineDash([]);
}

function drawStation(context, view) {
  const [x, y] = [view.x(site.bs.position_m[0]), view.y(site.bs.position_m[1])];
  const half = (Math.min(site.bs.width_deg, 360) / 360) * Math.PI;
  const towards = (-site.bs.yaw_deg * Math.PI) / 180;
  const reach = 0.16 * Math.min(view.scale * (view.east - view.west), view.scale * (view.north - view.south));
  context.fillStyle = colour("--bad");
  context.globalAlpha = 0.25;
  context.beginPath();
  context.moveTo(x, y);
  context.arc(x, y, reach, towards - half, towards + half);
  context.fill();
  context.globalAlpha = 1;
  mark(context, x, y, "base station", colour("--bad"));
}

function drawRisPanel(context, view) {
  const [x, y] = [view.x(site.ris.position_m[0]), view.y(site.ris.position_m[1])];
  const towards = (-site.ris.yaw_deg * Math.PI) / 180;
  const half = Math.max((view.scale * site.ris.width_m) / 2, 8);
  const [along, across] = [[Math.cos(towards), Math.sin(towards)], [-Math.sin(towards), Math.cos(towards)]];
  context.strokeStyle = colour("--ink");
  context.lineWidth = 4;
  context.beginPath();
  context.moveTo(x - half * across[0], y - half * across[1]);
  context.lineTo(x + half * across[0], y + half * across[1]);
  context.stroke();
  context.lineWidth = 1.5;
  context.beginPath();
  context.moveTo(x, y);
  context.lineTo(x + 2 * half * along[0], y + 2 * half * along[1]);
  context.stroke();
  context.lineWidth = 1;
  label(context, x, y, "RIS", colour("--ink"));
}

function mark(context, x, y, text, fill) {
  context.fillStyle = fill;
  context.strokeStyle = colour("--card");
  context.lineWidth = 2;
  context.beginPath();
  context.arc(x, y, 6, 0, 2 * Math.PI);
  context.fill();
  context.stroke();
  context.lineWidth = 1;
  label(context, x, y, text, fill);
}

// Text beside a place, towards the middle of the picture so that it stays inside, and readable on any ground.
function label(context, x, y, text, fill) {
  const ratio = devicePixelRatio || 1;
  const isLeft = x > context.canvas.width / ratio / 2;
  context.font = "600 12px system-ui";
  context.textAlign = isLeft ? "right" : "left";
  context.lineWidth = 3;
  context.strokeStyle = colour("--card");
  context.strokeText(text, x + (isLeft ? -10 : 10), y - 8);
  context.fillStyle = fill;
  context.fillText(text, x + (isLeft ? -10 : 10), y - 8);
  context.textAlign = "left";
  context.lineWidth = 1;
}

function drawScale(context, view, width, height) {
  const metres = [5, 10, 20, 50, 100, 200, 500, 1000].findLast((one) => one * view.scale < width / 4) ?? 5;
  context.fillStyle = colour("--soft");
  context.fillRect(8, height - 8, metres * view.scale, 2);
  context.font = "11px system-ui";
  context.fillText(`${metres} m`, 8, height - 12);
}

function drawPlan(users) {
  if (!site) return;
  const canvas = $("plan");
  const [width, height, ratio] = [canvas.clientWidth, canvas.clientHeight, devicePixelRatio || 1];
  if (!width || !height) return;
  if (!ground || ground.width !== width || ground.height !== height || ground.ratio !== ratio) {
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    ground = drawGround(width, height, ratio);
  }
  const context = canvas.getContext("2d");
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.drawImage(ground.canvas, 0, 0);
  context.scale(ratio, ratio);
  users.forEach((user, k) => {
    if (!user.position_m) return;
    const trail = trails.get(user.name) ?? [];
    trail.push(user.position_m);
    trails.set(user.name, trail.slice(-TRAIL));
    const fill = PALETTE[k % PALETTE.length];
    context.strokeStyle = fill;
    context.lineWidth = 2.5;
    context.beginPath();
    trail.forEach(([x, y]) => context.lineTo(ground.view.x(x), ground.view.y(y)));
    context.stroke();
    mark(context, ground.view.x(user.position_m[0]), ground.view.y(user.position_m[1]), user.name, fill);
  });
}

fetch("/site").then((answer) => answer.json()).then((told) => {
  site = told;
  if (!site) return;
  const [west, east, south, north] = bounds();
  $("site").className = east - west > 1.4 * (north - south) ? "wide" : "";
  $("site").hidden = false;
  $("site-name").textContent = `${site.name}, ${(site.carrier_hz / 1e9).toFixed(2)} GHz`;
});
