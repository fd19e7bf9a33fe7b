"""`demo --iq` from outside: a radio, a receiver and a controller as processes of their own, on the real wire."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingest.journal import JournalReader
from ingest.messages import BlockDecision, ChannelFrame, FeedbackFrame
from tests.processes import call, last_json

BLOCKS = 120
SITE = "munich"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A demo of `BLOCKS` blocks that ran to its end: its folder, and its JSON."""
    folder = tmp_path_factory.mktemp("demo")
    ended = call("demo", "--iq", "--site", SITE, "--blocks", str(BLOCKS), "--port", "0", "--json", folder=folder)
    assert ended.returncode == 0, ended.stderr
    return folder, last_json(ended.stdout)


def test_it_tells_what_was_received_and_what_came_of_it(demo: tuple[Path, dict[str, Any]]) -> None:
    _, told = demo
    assert told["decisions"] == BLOCKS
    assert told["ladder"]["linear"] > 0
    (cell,) = told["cells"]
    assert (cell["pci"], cell["mib_crc"], cell["ssb_period_s"]) == (500, True, 0.02)
    assert set(told["references"]["radio"]["users"]) == {"ue.0", "ue.1", "ue.2"}
    assert told["antenna_phases"]["radio"]["phases"] == "calibrated"
    assert told["outage"]["blocks"] > 0
    assert told["sinr"]["interval"] == 0.9
    assert 0 <= told["sinr"]["inside"] <= 1


def test_bursts_are_no_losses(demo: tuple[Path, dict[str, Any]]) -> None:
    _, told = demo
    assert told.get("lost", 0) == told.get("lost_samples", 0) == told.get("shed_samples", 0) == 0


def test_its_journal_holds_frames_with_all_that_is_known_and_replays(demo: tuple[Path, dict[str, Any]]) -> None:
    """Frames are journalled as they were joined: a replay needs neither radio nor clock to know what was on air."""
    folder, told = demo
    messages = list(JournalReader(folder / told["journal"]))
    frames = [one for one in messages if isinstance(one, ChannelFrame)]
    assert frames
    assert any(isinstance(one, FeedbackFrame) for one in messages)
    states = {np.asarray(one.theta).tobytes() for one in messages if isinstance(one, BlockDecision)}
    for frame in frames:
        assert frame.position_m is not None
        assert frame.ris_patterns.tobytes() in states
        assert frame.noise_power < 1e-6  # a path gain's: what users sent with is divided out
    again = last_json(call("replay", told["journal"], "--json", folder=folder).stdout)
    assert again["decisions_sha256"] == told["decisions_sha256"]
    assert again["differs_from_record"] == 0


def test_more_users_than_dmrs_tell_apart_are_refused(tmp_path: Path) -> None:
    ended = call("demo", "--iq", "--site", SITE, "--users", "9", "--blocks", "5", folder=tmp_path)
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert "9 users" in ended.stderr
