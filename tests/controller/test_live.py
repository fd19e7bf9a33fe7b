"""Live runs from outside: the demo, its journal and replay, signals, unplugged parts, streams with bad numbers."""

from __future__ import annotations

import os
import signal
import socket
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
from prometheus_client.parser import text_string_to_metric_families

from controller.beamforming.feasibility import infeasibility
from controller.config import watts
from ingest import wire
from ingest.journal import JournalReader
from ingest.messages import BlockDecision
from ingest.topics import TOPICS
from tests.processes import PATIENCE_S, Running, call, children_of, last_json, running
from tests.random_channels import complex_normal, frame

BLOCKS = 80
DEMO_FIELDS = {
    "blocks",
    "decisions",
    "missed",
    "latency_ms",
    "stages_ms",
    "ladder",
    "outage",
    "sum_se_bps_hz",
    "power_db",
    "drops",
    "journal",
    "decisions_sha256",
}
REPLAY_FIELDS = {
    "format",
    "frames",
    "decisions",
    "decisions_sha256",
    "gaps",
    "rejected",
    "antennas",
    "users",
    "latency_ms",
    "real_time_factor",
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A demo of `BLOCKS` blocks that ran to its end: its folder, and its JSON."""
    folder = tmp_path_factory.mktemp("demo")
    ended = call("demo", "--blocks", str(BLOCKS), "--port", "0", "--json", folder=folder)
    assert ended.returncode == 0, ended.stderr
    return folder, last_json(ended.stdout)


def test_the_demo_tells_what_it_did(demo: tuple[Path, dict[str, Any]]) -> None:
    folder, told = demo
    assert told.keys() >= DEMO_FIELDS
    assert told["blocks"] == told["decisions"] == sum(told["ladder"].values()) == BLOCKS
    assert told["latency_ms"].keys() == {"p50", "p99", "p999", "max"}
    assert told["outage"].keys() == {"promised", "realised", "blocks", "all", "users"}
    assert told["outage"]["all"]["outcomes"] >= told["outage"]["blocks"] > 0
    assert (folder / told["journal"]).is_file()


def test_its_journal_replays_to_the_same_bytes(demo: tuple[Path, dict[str, Any]]) -> None:
    folder, told = demo
    for environment in ({}, {"TWINBEAM_DESIGN__PRECODER": "mrt"}):
        again = call("replay", told["journal"], "--json", folder=folder, environment=environment)
        assert again.returncode == 0, again.stderr
        found = last_json(again.stdout)
        assert found.keys() >= REPLAY_FIELDS
        assert found["decisions_sha256"] == told["decisions_sha256"]
        assert found["differs_from_record"] == 0
        assert found["decisions"] == BLOCKS
        assert found["antennas"] == 16
        assert found["format"] == "journal"


def test_its_decisions_are_feasible(demo: tuple[Path, dict[str, Any]]) -> None:
    folder, told = demo
    decisions = [one for one in JournalReader(folder / told["journal"]) if isinstance(one, BlockDecision)]
    assert len(decisions) == BLOCKS
    assert all(infeasibility(one.precoder, one.theta, watts(33.0)) is None for one in decisions)


def test_a_journal_needs_the_twin_it_was_made_with(demo: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """Another bundle under the recorded name is refused: decisions would differ without a word."""
    folder, told = demo
    damaged = bytearray((folder / told["journal"]).read_bytes())
    known = JournalReader(folder / told["journal"]).metadata["bundle_sha256"].encode()
    place = damaged.index(known)
    damaged[place : place + 4] = b"0000" if known[:4] != b"0000" else b"1111"
    (tmp_path / "other.mcap").write_bytes(damaged)
    ended = call("replay", "other.mcap", "--json", folder=tmp_path)
    assert ended.returncode == 3
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stdout == ""


def until_decided(demo: Running, decisions: int) -> None:
    """Wait until /metrics counts so many decisions."""
    url = demo.until_logged("ready")["page"]

    def decided() -> bool:
        with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
            samples = text_string_to_metric_families(answer.read().decode())
            total = sum(
                one.value
                for family in samples
                for one in family.samples
                if family.name == "twinbeam_decisions" and one.name.endswith("_total")
            )
        return total >= decisions

    demo.until(decided, f"{decisions} decisions")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_order(tmp_path: Path, number: signal.Signals) -> None:
    with running("demo", "--port", "0", "--json", folder=tmp_path) as demo:
        until_decided(demo, 20)
        code, out = demo.end(number)
        demo.until(lambda: any(line["event"] == "done" for line in demo.log), "its last line")
    assert code == 0
    told = last_json(out)
    assert told["decisions"] > 10
    again = last_json(call("replay", told["journal"], "--json", folder=tmp_path).stdout)
    assert again["decisions_sha256"] == told["decisions_sha256"]


def test_killed_it_leaves_a_journal_that_replays(tmp_path: Path) -> None:
    with running("demo", "--port", "0", folder=tmp_path) as demo:
        until_decided(demo, 20)
        time.sleep(3.0)  # longer than the journal's chunks stay in memory
        demo.end(signal.SIGKILL)
    (journal,) = tmp_path.glob("journals/*.mcap")
    found = last_json(call("replay", str(journal), "--json", folder=tmp_path).stdout)
    assert found["decisions"] > 10
    assert found["rejected"] == {"truncated_end": 1}


def test_a_dead_testbed_ends_it_with_a_reason(tmp_path: Path) -> None:
    with running("demo", "--port", "0", "--json", folder=tmp_path) as demo:
        demo.until_logged("ready")
        demo.until(lambda: bool(children_of(demo.process.pid)), "the testbed")
        os.kill(children_of(demo.process.pid)[0], signal.SIGKILL)
        assert demo.process.wait(timeout=PATIENCE_S) == 1
        demo.until(lambda: bool(demo.other), "the reason")
    assert [line for line in demo.other if "testbed has died" in line]


def test_a_port_in_use_is_told(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = call("demo", "--port", str(port), "--blocks", "5", folder=tmp_path)
        assert ended.returncode == 2
        assert len(ended.stderr.splitlines()) == 1
        assert str(port) in ended.stderr
        (tmp_path / "run.toml").write_text(
            f"[source]\nuri = 'zmq+ipc://{tmp_path}/in'\n[emit]\nbind = 'tcp://127.0.0.1:{port}'\n"
            "[http]\nenabled = false\n"
        )
        ended = call("run", "run.toml", folder=tmp_path)
        assert ended.returncode == 2
        assert len(ended.stderr.splitlines()) == 1
        assert str(port) in ended.stderr


def test_a_stream_with_bad_numbers_is_steered_by_its_good_ones(tmp_path: Path) -> None:
    """NaN channels, damaged bytes, duplicates and another array: dropped, counted by reason, and the run goes on."""
    rng = np.random.default_rng(3)
    (tmp_path / "run.toml").write_text(
        f"[source]\nuri = 'zmq+ipc://{tmp_path}/in?socket=pull&bind=1'\n[emit]\nbind = 'ipc://{tmp_path}/out'\n"
        "[http]\nport = 0\n[journal]\nfolder = 'journals'\n[block]\nperiod_s = 0.1\ndeadline_s = 0.1\n"
    )
    with running("run", "run.toml", "--blocks", "30", "--json", folder=tmp_path) as run, zmq.Context() as context:
        push, hear = context.socket(zmq.PUSH), context.socket(zmq.SUB)
        try:
            for one in (push, hear):
                one.setsockopt(zmq.LINGER, 0)
            hear.setsockopt(zmq.SUBSCRIBE, TOPICS[BlockDecision.TOPIC].prefix)
            push.connect(f"ipc://{tmp_path}/in")
            hear.connect(f"ipc://{tmp_path}/out")
            run.until_logged("ready")
            seq = 0
            while run.process.poll() is None:
                good = frame(complex_normal(rng, 1, 4), block=seq, seq=3 * seq)
                bad = complex_normal(rng, 1, 4)
                bad[0, 1] = np.nan
                push.send_multipart(wire.encode(good))
                push.send_multipart(wire.encode(good))
                push.send_multipart(wire.encode(frame(bad, block=seq, seq=3 * seq + 1)))
                push.send_multipart([b"channel", b"{", b""])
                push.send_multipart([b"nonsense"])
                seq += 1
                time.sleep(0.01)
            heard = []
            while hear.poll(200):
                heard.append(wire.decode(hear.recv_multipart()))
        finally:
            push.close()
            hear.close()
        assert run.process.stdout is not None
        told = last_json(run.process.stdout.read())
    assert run.process.returncode == 0
    assert told["decisions"] == 30
    assert told["ladder"].get("linear", 0) > 15
    for reason in ("non_finite", "duplicate", "header", "frames"):
        assert told["drops"][reason] > 10, reason
    assert heard, "decisions go out on the wire"
    assert all(isinstance(one, BlockDecision) and np.isfinite(one.precoder).all() for one in heard)
    again = last_json(call("replay", told["journal"], "--json", folder=tmp_path).stdout)
    assert again["decisions_sha256"] == told["decisions_sha256"]


def test_a_journal_is_replayed_not_run(demo: tuple[Path, dict[str, Any]]) -> None:
    folder, told = demo
    (folder / "run.toml").write_text(
        f"[source]\nuri = '{told['journal']}'\n[emit]\nbind = ''\n[http]\nenabled = false\n"
    )
    ended = call("run", "run.toml", folder=folder)
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert "twinbeam replay" in ended.stderr
