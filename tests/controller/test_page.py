"""The live page as a person sees it: opened in Chromium, its numbers move, nothing is wrong in its console."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import msgspec
import numpy as np
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from controller.config import Config, HttpTable
from controller.mailbox import Inputs
from controller.metrics import Metrics
from controller.page.feed import PageFeed
from controller.page.server import PageServer
from controller.page.site_plan import site_plan
from controller.pipeline import Pipeline
from ingest.errors import UsageRefused
from sim.bundle import load_bundle
from sim.channels import SiteChannels
from sim.site import sites_folder
from tests.browser import CHROMIUM, Browser
from tests.processes import running
from tests.random_channels import budget, complex_normal, frame


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")
def test_its_numbers_move(tmp_path: Path) -> None:
    with running("demo", "--port", "0", "--journal", "", folder=tmp_path) as demo:
        url = demo.until_logged("ready")["page"]
        with Browser(tmp_path / "profile") as browser:
            browser.open(url)
            browser.wait_for("Number(document.getElementById('decisions').textContent.replace(/\\D/g, '')) > 20")
            first = int("".join(filter(str.isdigit, browser.text("#decisions"))))
            browser.wait_for(
                f"Number(document.getElementById('decisions').textContent.replace(/\\D/g, '')) > {first + 20}"
            )
            browser.wait_for("document.querySelectorAll('#users tr').length === 3")
            assert browser.text("#rung") in ("linear", "hold")
            assert browser.text("#link") == "live"
            assert browser.evaluate("document.querySelectorAll('.plot canvas').length") >= 5
            assert browser.evaluate(DRAWN) >= 5, "every plot has ink on it"
            assert not browser.evaluate("document.getElementById('site').hidden")
            assert browser.evaluate(SITE_COLOURS) > 40, "streets by gain, arrays, zones and users"
            browser.evaluate(
                "(() => { const s = document.getElementById('user'); s.value = 'ue2';"
                " s.dispatchEvent(new Event('change')); })()"
            )
            browser.wait_for("document.getElementById('user').value === 'ue2'")
            picture = tmp_path / "page.png"
            browser.screenshot(picture)
            assert picture.stat().st_size > 20_000
            assert browser.problems == []
            demo.end(signal.SIGKILL)
            browser.wait_for("document.getElementById('link').textContent !== 'live'")


DRAWN = """[...document.querySelectorAll('.plot canvas')].filter((canvas) => {
  const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  for (let i = 3; i < pixels.length; i += 4) if (pixels[i]) return true;
  return false;
}).length"""


SITE_COLOURS = """(() => {
  const canvas = document.getElementById('plan');
  const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  const found = new Set();
  for (let i = 0; i < pixels.length; i += 4) if (pixels[i + 3] > 200) found.add(pixels.slice(i, i + 3).join());
  return found.size;
})()"""


@pytest.fixture
def served() -> PageServer:
    """A page after one decision."""
    controller = Pipeline.build(Config(), None, {})
    channel = frame(complex_normal(np.random.default_rng(0), 1, 4))
    state, decision = controller.step(controller.start(), Inputs(channels=(channel,)), budget(0))
    feed = PageFeed("a <b>title</b>", 6.0, None)
    feed.saw(channel)
    feed.decided(decision, 2e-3, state, missed=False)
    server = PageServer(HttpTable(port=0), feed, Metrics("1.0"))
    server.start()
    yield server  # type: ignore[misc]
    server.close()


def get(server: PageServer, path: str) -> tuple[int, dict[str, str], bytes]:
    try:
        with urllib.request.urlopen(server.url + path, timeout=10) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


def test_what_is_served(served: PageServer) -> None:
    code, headers, page = get(served, "/")
    assert code == 200
    assert b"<title>twinbeam</title>" in page
    assert "default-src 'self'" in headers["content-security-policy"]
    assert get(served, "/health")[::2] == (200, b"ok\n")
    assert get(served, "/metrics")[0] == 200
    for path in ("/static/page.js", "/static/plan.js", "/static/page.css", "/static/vendor/uplot/uPlot.iife.min.js"):
        assert get(served, path)[0] == 200, path
    for path in ("/nothing", "/static/../server.py", "/static/%2e%2e/server.py", "/static/vendor"):
        assert get(served, path)[0] == 404, path


def test_a_stale_twin_is_told_where_health_is_asked_for() -> None:
    feed = PageFeed("t", 6.0, None)
    server = PageServer(HttpTable(port=0), feed, Metrics("1.0"))
    server.start()
    try:
        for twin, told in (
            ({"state": "fresh", "why": ""}, b"ok\n"),
            ({"state": "stale", "why": "no trace for 1 s"}, b"ok\ntwin stale: no trace for 1 s\n"),
        ):
            feed.twin = twin
            assert get(server, "/health")[::2] == (200, told)
    finally:
        server.close()
    assert json.loads(feed.snapshot())["twin"]["state"] == "stale"


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed: apt-get install prometheus")
def test_promtool_takes_what_curl_gets(served: PageServer) -> None:
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=get(served, "/metrics")[2], capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stderr.decode()


def test_the_socket_tells_the_newest_decision(served: PageServer) -> None:
    async def first() -> dict[str, object]:
        async with connect(served.url.replace("http", "ws") + "/live") as socket:
            return dict(json.loads(await socket.recv()))

    told = asyncio.run(first())
    assert told["title"] == "a <b>title</b>"
    assert told["decisions"] == 1
    assert told["rung"] == "linear"
    assert told["ris"] is None


def test_a_site_is_told_by_what_its_bundle_has(served: PageServer) -> None:
    assert get(served, "/site")[::2] == (200, b"null"), "there is none"
    channels = SiteChannels(load_bundle(sites_folder() / "munich" / "twin.h5"))
    told, bundle = json.loads(site_plan(channels, 20.0)), channels.bundle
    assert (told["name"], told["zone_m"], told["spacing_m"]) == ("munich", 20.0, 2.0)
    assert np.allclose(told["points_m"], bundle.positions_m[:, :2], atol=0.01)
    assert len(told["points_m"]) + len(told["indoors_m"]) == len(bundle.site.users.grid_m())
    assert not {tuple(place) for place in told["points_m"]} & {tuple(place) for place in told["indoors_m"]}
    for link, gain_db in enumerate(told["gain_db"]):
        power = np.sum(np.abs(bundle.bs_user.gain[bundle.bs_user.rows(link)]) ** 2)
        assert (gain_db is None) == (power == 0)
        assert gain_db is None or gain_db == pytest.approx(10 * np.log10(power), abs=0.06)
    assert (told["bs"]["yaw_deg"], told["bs"]["width_deg"]) == (164.0, 65.0)
    assert told["ris"]["width_m"] == pytest.approx(16 * bundle.site.wavelength_m / 2)


def test_users_are_shown_where_they_say_they_are() -> None:
    channel = msgspec.structs.replace(
        frame(complex_normal(np.random.default_rng(0), 1, 4)), position_m=(1.234, -5.678, 1.5)
    )
    controller = Pipeline.build(Config(), None, {})
    state, decision = controller.step(controller.start(), Inputs(channels=(channel,)), budget(0))
    feed = PageFeed("where", 6.0, None)
    feed.saw(channel)
    feed.decided(decision, 2e-3, state, missed=False)
    assert json.loads(feed.snapshot())["users"][0]["position_m"] == [1.23, -5.68, 1.5]


@pytest.mark.parametrize("tones_hz", [np.zeros(4), np.array([0.0, 1.0, 3.0, 4.0]), -np.arange(4.0)])
def test_odd_tones_do_not_spoil_the_page(tones_hz: np.ndarray) -> None:
    channel = frame(complex_normal(np.random.default_rng(0), 1, 4))
    odd = msgspec.structs.replace(channel, cfr=np.repeat(channel.cfr, 4, axis=2), tones_hz=tones_hz)
    controller = Pipeline.build(Config(), None, {})
    state, decision = controller.step(controller.start(), Inputs(channels=(odd,)), budget(0))
    feed = PageFeed("odd", 6.0, None)
    feed.saw(odd)
    feed.decided(decision, None, state, missed=False)
    assert json.loads(feed.snapshot())["cir"] == []


def test_pages_that_are_closed_leave_nothing_behind(served: PageServer) -> None:
    async def come_and_go() -> None:
        for _ in range(20):
            async with connect(served.url.replace("http", "ws") + "/live") as socket:
                await socket.recv()

    asyncio.run(come_and_go())
    tasks = served._server.server_state.tasks
    give_up = time.monotonic() + 30
    while tasks and time.monotonic() < give_up:
        time.sleep(0.05)
    assert not tasks, "no page that has gone is still served"


def test_another_site_s_page_may_not_listen(served: PageServer) -> None:
    async def listen() -> None:
        async with connect(served.url.replace("http", "ws") + "/live", origin="http://evil.example") as socket:  # type: ignore[arg-type]
            await socket.recv()

    with pytest.raises(InvalidStatus):
        asyncio.run(listen())


def test_another_site_s_name_that_leads_here_may_not_listen(served: PageServer) -> None:
    port = served.url.rsplit(":", 1)[1]

    async def listen() -> None:
        uri = f"ws://evil.example:{port}/live"
        async with connect(uri, host="127.0.0.1", origin=f"http://evil.example:{port}") as socket:  # type: ignore[arg-type]
            await socket.recv()

    with pytest.raises(InvalidStatus):
        asyncio.run(listen())


def test_a_port_in_use_is_told(served: PageServer) -> None:
    port = int(served.url.rsplit(":", 1)[1])
    with pytest.raises(UsageRefused, match=str(port)):
        PageServer(HttpTable(port=port), PageFeed("", 1.0, None), Metrics("1.0"))
