"""Scenario files are read strictly, and a stage plays them: tracks, screens and worlds, each at its time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ingest import wire
from ingest.errors import InputRefused, TwinbeamError, UsageRefused
from ingest.messages import ChannelFrame, Message
from sim.bundle import SiteBundle, save_bundle
from sim.channels import SiteChannels
from sim.iq_testbed import IqTestbed
from sim.scenario import Blocker, Change, Scenario, UserTrack, load_scenario
from sim.screens import passed
from sim.site import load_site, site_path, sites_folder
from sim.stage import Act, Stage, open_stage
from sim.testbed import Testbed, TestbedSettings
from sim.tracks import Track, walked
from tests.sim.hand_made import BS, free_space_bundle

pytestmark = pytest.mark.kernel

Real = npt.NDArray[np.float64]

TONES_HZ = np.linspace(-5e6, 5e6, 7)
THETA = np.exp(1j * np.arange(4.0))
BS_WAVELENGTH_M = 299_792_458.0 / 3.5e9
MIDDLE = np.array([13.0, -4.0, 1.5])


@pytest.fixture(scope="module")
def world() -> SiteChannels:
    """Six antennas and four RIS elements in free space."""
    return SiteChannels(free_space_bundle())


def other_bundle() -> SiteBundle:
    """The same with half the gain to users, as if in another scene."""
    bundle = free_space_bundle()
    return replace(bundle, bs_user=replace(bundle.bs_user, gain=bundle.bs_user.gain / 2))


# ---- tracks -----------------------------------------------------------------------------------------------------


def test_tracks_are_straight_between_their_times() -> None:
    track = Track(np.array([1.0, 3.0, 4.0]), np.array([[0, 0, 0], [2, 0, 0], [2, 3, 0]], np.float64))
    for time_s, position_m, velocity_m_s in (
        (0.0, (0, 0, 0), (0, 0, 0)),
        (1.0, (0, 0, 0), (1, 0, 0)),
        (2.5, (1.5, 0, 0), (1, 0, 0)),
        (3.0, (2, 0, 0), (0, 3, 0)),
        (3.5, (2, 1.5, 0), (0, 3, 0)),
        (4.0, (2, 3, 0), (0, 0, 0)),
        (99.0, (2, 3, 0), (0, 0, 0)),
    ):
        found = track.at(time_s)
        np.testing.assert_allclose(found, [position_m, velocity_m_s], atol=1e-12)
    back = replace(track, goes_back=True)
    for time_s, position_m, velocity_m_s in (
        (4.0, (2, 3, 0), (0, -3, 0)),
        (4.5, (2, 1.5, 0), (0, -3, 0)),
        (5.0, (2, 0, 0), (-1, 0, 0)),
        (6.5, (0.5, 0, 0), (-1, 0, 0)),
        (7.0, (0, 0, 0), (1, 0, 0)),
        (604.5, (2, 1.5, 0), (0, -3, 0)),
    ):
        np.testing.assert_allclose(back.at(time_s), [position_m, velocity_m_s], atol=1e-9)


def test_waypoints_are_walked_at_one_speed() -> None:
    track = walked(np.array([[0, 0, 1], [3, 4, 1], [3, 10, 1]], np.float64), 2.0)
    np.testing.assert_allclose(track.times_s, [0.0, 2.5, 5.5])
    speeds = [np.linalg.norm(track.at(time_s)[1]) for time_s in np.arange(0.1, 5.5, 0.2)]
    np.testing.assert_allclose(speeds, 2.0)


# ---- files ------------------------------------------------------------------------------------------------------


def test_the_shipped_scenario_is_of_a_site_that_is_there() -> None:
    scenario = load_scenario(sites_folder() / "quad" / "street.toml")
    assert scenario.site is not None
    site = load_site(site_path(scenario.site))
    assert scenario.tracks
    assert scenario.blockers
    for change in scenario.changes:
        changed = load_site(Path(change.site).with_name("site.toml"))
        assert (changed.bs, changed.ris, changed.carrier_hz) == (site.bs, site.ris, site.carrier_hz)


def test_a_track_comes_from_a_file_beside_the_scenario(tmp_path: Path) -> None:
    (tmp_path / "walk.csv").write_text("t_s, x_m, y_m\n0, 12.0, -6.0\n2.5, 14.0, -6.0\n\n")
    (tmp_path / "one.toml").write_text('[[tracks]]\nfile = "walk.csv"\nafter = "back"\n')
    (track,) = load_scenario(tmp_path / "one.toml").tracks
    found = track.track(1.5)
    np.testing.assert_array_equal(found.places_m, [[12.0, -6.0, 1.5], [14.0, -6.0, 1.5]])
    assert found.goes_back


BAD = [
    ("[[track]]\n", "unknown key 'track'.*did you mean 'tracks'"),
    ("[[tracks]]\nspeed = 1\n", r"unknown key 'tracks\.0\.speed'.*did you mean 'speed_m_s'"),
    ('[[tracks]]\nfile = "a.csv"\npoints = [[0, 1, 2]]\n', "file and points both say"),
    ("[[tracks]]\nwaypoints_m = [[1, 2], [3, 4]]\n", "need a speed_m_s"),
    ("[[tracks]]\nwaypoints_m = [[1, 2], [1, 2]]\nspeed_m_s = 1\n", "none of them twice"),
    ("[[tracks]]\npoints = [[0, 1, 2], [0, 2, 2]]\n", "ascending times"),
    ("[[tracks]]\npoints = [[0, 1, 2], [1, 2, 2, 1]]\n", "in all of them or none"),
    ("[[tracks]]\npoints = [[0, 1, nan]]\n", "finite"),
    ("[[tracks]]\npoints = [[0, 1, 2]]\nspeed_m_s = 2\n", "has its own speed"),
    ('[[tracks]]\nafter = "back"\n', "no end to go back from"),
    ("[[blockers]]\nwidth_m = 1\nheight_m = 1\n", "needs a position_m"),
    ("[[blockers]]\nwidth_m = 0\nheight_m = 1\nposition_m = [1, 2]\n", r"blockers\.0\.width_m.*greater than 0"),
    ("[[blockers]]\nwidth_m = 1\nheight_m = 1\nposition_m = [1, 2]\nfrom_s = 3\nto_s = 3\n", "before it comes"),
    ("[[blockers]]\nwidth_m = 1\nheight_m = 1\nposition_m = [1, 2]\nevery_s = 3\n", "comes again by every_s before"),
    ('[[changes]]\nat_s = 1\nsite = "atlantis"\n', "no such site"),
    ('[[changes]]\nat_s = 1\nsite = "quad"\nblend_s = 2\n[[changes]]\nat_s = 2\nsite = "quad"\n', "is over"),
    ('[[tracks]]\nfile = "none.csv"\n', "No such file"),
    ("[[tracks]\n", "is not TOML"),
]


@pytest.mark.parametrize(("text", "told"), BAD)
def test_what_is_wrong_is_told_in_one_line(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(TwinbeamError, match=told) as refusal:
        load_scenario(tmp_path / "bad.toml")
    assert "\n" not in str(refusal.value)
    assert refusal.value.exit_code in (2, 3)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x,y\n", "begins with 'x,y'"),
        ("", "begins with ''"),
        ("t_s,x_m,y_m\n0,1\n", "line 2 is not 3 numbers"),
        ("t_s,x_m,y_m,z_m\n0,1,2,3\n1,1,inf,2\n", "line 3 is not 4 numbers"),
        ("t_s,x_m,y_m\n1,1,1\n0,1,1\n", "ascending times"),
        ("t_s,x_m,y_m\n", "one at least"),
    ],
)
def test_bad_recordings_are_refused_by_line(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "walk.csv").write_text(text)
    (tmp_path / "bad.toml").write_text('[[tracks]]\nfile = "walk.csv"\n')
    with pytest.raises(InputRefused, match=told):
        load_scenario(tmp_path / "bad.toml")


def test_what_does_not_fit_the_world_is_refused(tmp_path: Path, world: SiteChannels) -> None:
    away = Scenario(tracks=(UserTrack(points=((0.0, 12.0, -6.0), (9.0, 12.0, 40.0))),))
    with pytest.raises(InputRefused, match=r"ue0: leads to \(12, .* from where anything was traced"):
        open_stage(world, away)
    missing = Scenario(changes=(Change(at_s=1.0, site=str(tmp_path / "world.h5")),))
    with pytest.raises(UsageRefused, match="no world to change to"):
        open_stage(world, missing)
    bundle = other_bundle()
    turned = bundle.site.model_copy(update={"bs": BS.model_copy(update={"yaw_deg": 21.0})})
    save_bundle(replace(bundle, site=turned), tmp_path / "world.h5")
    with pytest.raises(UsageRefused, match="bs is not that of small"):
        open_stage(world, missing)
    with pytest.raises(UsageRefused, match="2 tracks for 1 users"):
        Testbed(world, TestbedSettings(users=1, scenario=Scenario(tracks=(UserTrack(), UserTrack()))))


# ---- the stage --------------------------------------------------------------------------------------------------


def test_a_screen_shades_each_of_the_three_ways_while_it_is_there(world: SiteChannels) -> None:
    site = world.bundle.site
    assert site.ris is not None
    bs_m, ris_m = np.array(site.bs.position_m), np.array(site.ris.position_m)
    direct, whole = world.direct_cfr(MIDDLE, TONES_HZ), world.effective_cfr(MIDDLE, THETA, TONES_HZ)
    ways = {"direct": (bs_m, MIDDLE), "second": (ris_m, MIDDLE), "hop": (bs_m, ris_m)}
    for one_m, other_m in ways.values():
        x, y, z = (float(value) for value in 0.55 * one_m + 0.45 * other_m)
        blocker = Blocker(position_m=(x, y, z), width_m=0.8, height_m=0.8, from_s=1.0, to_s=2.0, every_s=10.0)
        stage = open_stage(world, Scenario(blockers=(blocker,)))
        left = {name: left_of(*ends, np.array([x, y, z, 0.8, 0.8])) for name, ends in ways.items()}
        assert min(left.values()) < 0.8 < 0.98 < sorted(left.values())[1]
        for seconds, there in ((0.5, False), (1.0, True), (0.5, False), (9.2, True)):
            stage.advance(seconds)
            first, over_ris = (left["direct"], left["second"] * left["hop"]) if there else (1.0, 1.0)
            expected = direct * first + (whole - direct) * over_ris
            np.testing.assert_allclose(stage.effective_cfr(MIDDLE, THETA, TONES_HZ), expected, rtol=1e-9)
            rows = world.cascade(MIDDLE) * np.array([first, *[over_ris] * 4])[:, None]
            np.testing.assert_allclose(stage.cascade(MIDDLE), rows, rtol=1e-9)


def left_of(transmitter_m: Real, receiver_m: Real, screen: Real) -> float:
    """What a screen leaves of a line of sight."""
    way_m = float(np.linalg.norm(transmitter_m - receiver_m))
    towards = (transmitter_m - receiver_m) / way_m
    return passed(receiver_m, towards, way_m, way_m, screen, BS_WAVELENGTH_M)


def test_worlds_follow_each_other_hard_or_blended(world: SiteChannels) -> None:
    other = SiteChannels(other_bundle())
    stage = Stage(world, later=[Act(1.0, 0.0, other), Act(2.0, 1.0, world)])
    full, half = (one.effective_cfr(MIDDLE, THETA, TONES_HZ) for one in (world, other))
    for time_s, share in ((0.99, 1.0), (1.0, 0.0), (1.9, 0.0), (2.25, 0.25), (2.5, 0.5), (3.0, 1.0), (50.0, 1.0)):
        stage.advance(time_s - stage.time_s)
        np.testing.assert_allclose(
            stage.effective_cfr(MIDDLE, THETA, TONES_HZ), share * full + (1 - share) * half, rtol=1e-9
        )


def test_a_link_stays_as_it_was(world: SiteChannels) -> None:
    blocker = Blocker(waypoints_m=((6.0, -3.0), (6.5, 0.0)), speed_m_s=1.0, width_m=4.0, height_m=15.0, from_s=1.0)
    stage = open_stage(world, Scenario(blockers=(blocker,)))
    before = stage.link(MIDDLE)
    first = before.effective_cfr(THETA, TONES_HZ)
    stage.advance(1.5)
    assert np.abs(stage.effective_cfr(MIDDLE, THETA, TONES_HZ) - first).max() > 1e-3 * np.abs(first).max()
    np.testing.assert_array_equal(before.effective_cfr(THETA, TONES_HZ), first)


# ---- the testbeds -----------------------------------------------------------------------------------------------

PLAYED = Scenario(
    tracks=(UserTrack(points=((0.0, 12.0, -6.0), (0.04, 12.2, -6.0))), UserTrack(speed_m_s=2.0)),
    blockers=(Blocker(position_m=(6.0, -3.0), width_m=4.0, height_m=15.0, from_s=0.02),),
)


def bytes_of(messages: list[Message]) -> list[bytes]:
    return [b"".join(bytes(part) for part in wire.encode(message)) for message in messages]


def played(testbed: Testbed, blocks: int) -> list[Message]:
    told: list[Message] = []
    for block in range(blocks):
        told += testbed.measure(block)
        told += testbed.transmit(None, block)
    return told


def test_users_keep_to_their_tracks_and_others_walk_as_before(world: SiteChannels) -> None:
    settings = TestbedSettings(position_sigma_m=0.0, sounding_every=0)
    plain = [m for m in played(Testbed(world, settings), 6) if isinstance(m, ChannelFrame)]
    told = [m for m in played(Testbed(world, replace(settings, scenario=PLAYED)), 6) if isinstance(m, ChannelFrame)]
    ours = [m for m in told if m.user == "ue0"]
    np.testing.assert_allclose([m.position_m[0] for m in ours if m.position_m], [12, 12.05, 12.1, 12.15, 12.2, 12.2])
    assert ours[1].velocity_m_s == pytest.approx((5.0, 0.0, 0.0))
    for user in ("ue2",):
        assert [m.position_m for m in told if m.user == user] == [m.position_m for m in plain if m.user == user]


@pytest.mark.parametrize("kind", [Testbed, IqTestbed])
def test_the_same_seed_plays_the_same(world: SiteChannels, kind: type[Testbed]) -> None:
    settings = TestbedSettings(users=2, scenario=PLAYED)
    first, again = (bytes_of(played(kind(world, settings), 4)) for _ in range(2))
    assert first == again
    other = bytes_of(played(kind(world, replace(settings, scenario=Scenario(tracks=PLAYED.tracks))), 4))
    per_block = len(first) // 4
    assert first[: 2 * per_block - 2] == other[: 2 * per_block - 2]
    assert first[2 * per_block :] != other[2 * per_block :]
