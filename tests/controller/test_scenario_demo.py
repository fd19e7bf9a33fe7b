"""The demo plays a scenario, and channel emulators follow it, from outside."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ingest.journal import JournalReader
from ingest.messages import ChannelFrame
from tests.processes import call, last_json
from tests.sim.test_emulator_output import CONFIG, Peer

BLOCKS = 40

SCENARIO = """
site = "munich"
[[tracks]]
file = "stands.csv"
[[tracks]]
waypoints_m = [[80.0, -20.0], [81.0, -20.0]]
speed_m_s = 2.0
after = "back"
[[blockers]]
position_m = [95.0, -5.0]
width_m = 30.0
height_m = 12.0
from_s = 0.4
"""


def test_a_scenario_is_played_and_emulators_follow(tmp_path: Path) -> None:
    (tmp_path / "one.toml").write_text(SCENARIO)
    (tmp_path / "stands.csv").write_text("t_s,x_m,y_m\n0,82.0,0.0\n")
    peers = [Peer(f"ipc://{tmp_path}/emulator{antenna}") for antenna in range(2)]
    for peer in peers:
        peer.start()
    try:
        emulators = [part for k in range(2) for part in ("--emulator", f"ipc://{tmp_path}/emulator{k}")]
        arguments = ("--scenario", "one.toml", "--blocks", str(BLOCKS), "--port", "0", "--no-page", "--json")
        ended = call("demo", *arguments, *emulators, folder=tmp_path)
    finally:
        for peer in peers:
            peer.end()
    assert ended.returncode == 0, ended.stderr
    told = last_json(ended.stdout)
    frames = [one for one in JournalReader(tmp_path / told["journal"]) if isinstance(one, ChannelFrame)]
    assert {one.user for one in frames} == {"ue0", "ue1", "ue2"}
    positions = {user: [one.position_m for one in frames if one.user == user] for user in ("ue0", "ue1")}
    np.testing.assert_allclose(np.array(positions["ue0"])[:, :2], [[82.0, 0.0]] * len(positions["ue0"]), atol=0.2)
    np.testing.assert_allclose(np.array(positions["ue1"])[:, 1], -20.0, atol=0.2)
    powers = [(one.block, float(np.mean(np.abs(one.cfr) ** 2))) for one in frames if one.domain == "effective"]
    before, after = (np.mean([p for block, p in powers if (block * 0.02 < 0.4) == early]) for early in (True, False))
    assert after < 0.5 * before, "the screen stands before the base station"
    for peer in peers:
        assert len(peer.requests) > 3
        np.testing.assert_allclose(np.linalg.norm(peer.taps, axis=1), 1.0, rtol=1e-4)
        assert peer.norms.shape == (CONFIG.num_ofdm_symbols_per_slot,)
