// The live page: one snapshot of the controller after another over a WebSocket, drawn with uPlot and a canvas.
"use strict";

const $ = (id) => document.getElementById(id);
const style = getComputedStyle(document.documentElement);
const colour = (name) => style.getPropertyValue(name).trim();
const PALETTE = ["#3b82f6", "#e8590c", "#0ca678", "#ae3ec9", "#f59f00", "#1098ad", "#d6336c", "#74b816"];
const STALE_MS = 2000;

// ---- plots -----------------------------------------------------------------------------------------------------

const plots = {};

function axis(label, size) {
  return { label, labelSize: 18, size, stroke: colour("--soft"), font: "11px system-ui",
    labelFont: "12px system-ui", grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
}

// One plot per element, made anew only when its set of curves changes.
function draw(id, x, y, curves, data, scales = {}) {
  const key = JSON.stringify(curves);
  const element = $(id);
  if (!plots[id] || plots[id].key !== key) {
    if (plots[id]) plots[id].plot.destroy();
    const series = [{ label: x }, ...curves.map((curve) => ({
      label: curve.label, stroke: curve.colour, width: 1.6, dash: curve.dash, points: { show: false }, spanGaps: false,
    }))];
    const plot = new uPlot({
      width: element.clientWidth, height: 232, scales: { x: { time: false }, ...scales },
      axes: [axis(x, 26), axis(y, 46)], series, legend: { live: false }, cursor: { show: false },
    }, data, element);
    plots[id] = { key, plot };
  } else {
    plots[id].plot.setData(data);
  }
}

addEventListener("resize", () => {
  for (const [id, { plot }] of Object.entries(plots)) plot.setSize({ width: $(id).clientWidth, height: 232 });
});

function drawChannel(profiles) {
  const select = $("user");
  const names = profiles.map((profile) => profile.name);
  if (JSON.stringify([...select.options].map((option) => option.value)) !== JSON.stringify(names)) {
    const chosen = select.value;
    select.replaceChildren(...names.map((name) => new Option(name, name)));
    if (names.includes(chosen)) select.value = chosen;
  }
  const one = profiles.find((profile) => profile.name === select.value) || profiles[0];
  if (!one) return;
  const curves = [{ label: "measured", colour: PALETTE[0] }];
  const data = [one.tap_ns, one.measured_db];
  if (one.twin_db) {
    curves.push({ label: "twin", colour: PALETTE[1], dash: [6, 4] });
    const floor = one.noise_db - 10;
    data.push(one.twin_db.map((value) => (value < floor ? null : value)));
  }
  draw("cir", "delay [ns]", "power [dB]", curves, data);
}

function drawBeams(beam) {
  const curves = beam.users.map((user, k) => ({ label: user.name, colour: PALETTE[k % PALETTE.length] }));
  const data = [beam.angle_deg, ...beam.users.map((user) => user.gain_db.map((gain) => Math.max(gain, -25)))];
  draw("beam", "azimuth from boresight [°]", "gain [dB]", curves, data, { y: { range: [-25, 15] } });
}

function drawHistory(history, deadline) {
  const blocks = history.block;
  draw("latency", "block", "latency [ms]",
    [{ label: "first frame → decision", colour: PALETTE[0] }, { label: "deadline", colour: colour("--bad"), dash: [4, 4] }],
    [blocks, history.latency_ms, blocks.map(() => deadline)],
    { y: { range: (_, low, high) => [0, Math.max(high, deadline) * 1.1] } });
  draw("outage", "block", "outage",
    [{ label: "promised", colour: PALETTE[1], dash: [6, 4] }, { label: "realised", colour: PALETTE[0] }],
    [blocks, history.promised, history.realised],
    { y: { range: (_, low, high) => [0, Math.min(1, Math.max(0.1, high * 1.15))] } });
}

function drawRis(ris) {
  $("no-ris").hidden = Boolean(ris);
  const canvas = $("ris");
  canvas.parentElement.hidden = !ris;
  if (!ris) return;
  canvas.width = ris.columns;
  canvas.height = ris.rows;
  const context = canvas.getContext("2d");
  ris.phase_rad.forEach((phase, element) => {
    context.fillStyle = `hsl(${(phase / (2 * Math.PI)) * 360} 70% 55%)`;
    context.fillRect(element % ris.columns, Math.floor(element / ris.columns), 1, 1);
  });
}

// ---- numbers ---------------------------------------------------------------------------------------------------

const percent = (ratio) => (ratio === null || ratio === undefined ? "–" : `${(100 * ratio).toFixed(1)} %`);
const db = (value) => `${value.toFixed(1)} dB`;

function set(id, text, kind = "") {
  $(id).textContent = text;
  $(id).className = kind;
}

function showFacts(now) {
  const last = (values) => values.findLast((value) => value !== null);
  set("block", now.block ?? "–");
  set("decisions", now.decisions);
  set("missed", now.missed, now.missed ? "warn" : "good");
  set("rung", now.rung ?? "–", { linear: "good", robust: "good", hold: "warn", silence: "bad" }[now.rung]);
  set("power", now.power_w ? `${(10 * Math.log10(now.power_w)).toFixed(1)} dBW` : "–");
  set("promised", percent(last(now.history.promised)));
  set("realised", percent(last(now.history.realised)));
  showTwin(now.twin);
}

// A twin that is traced live: how old its newest trace is, or why it is stale.
function showTwin(twin) {
  $("live-twin").hidden = !twin;
  if (!twin) return;
  const age = twin.age_s === null ? "not traced yet" : `${twin.age_s.toFixed(1)} s`;
  set("twin", twin.state === "stale" ? `stale, ${age}` : age, { fresh: "good", stale: "bad" }[twin.state] ?? "warn");
  $("twin").title = twin.why || `a trace takes ${twin.trace_ms} ms`;
}

function cell(text, className) {
  const td = document.createElement("td");
  if (className) {
    const chip = document.createElement("span");
    chip.className = `chip ${className}`;
    chip.textContent = text;
    td.append(chip);
  } else {
    td.textContent = text;
  }
  return td;
}

function showUsers(users, notes) {
  $("users").replaceChildren(...users.map((user) => {
    const row = document.createElement("tr");
    row.append(cell(user.name), cell(user.zone), cell(user.validity, user.validity), cell(db(user.residual_db)),
      cell(db(user.sinr_db)), cell(percent(user.promised_outage)));
    return row;
  }));
  $("notes").textContent = notes.length ? `Not configured, or worth knowing: ${notes.join("; ")}.` : "";
}

function show(now) {
  $("title").textContent = now.title;
  showFacts(now);
  drawHistory(now.history, now.deadline_ms);
  if (now.users) {
    showUsers(now.users, now.notes);
    drawBeams(now.beam);
    drawChannel(now.cir);
    drawRis(now.ris);
    drawPlan(now.users);
  }
}

// ---- link ------------------------------------------------------------------------------------------------------

let heard = 0;

function link(state, text) {
  $("link").className = state;
  $("link").textContent = text;
}

function connect() {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const socket = new WebSocket(`${scheme}://${location.host}/live`);
  socket.onmessage = (event) => {
    heard = performance.now();
    link("on", "live");
    show(JSON.parse(event.data));
  };
  socket.onclose = () => {
    link("off", "no connection, trying again…");
    setTimeout(connect, 1000);
  };
}

setInterval(() => {
  if (heard && $("link").className === "on" && performance.now() - heard > STALE_MS) link("stale", "no new decisions");
}, 500);

connect();
