"""What is traced into a bundle gives the channels that Sionna RT itself computes, antenna by antenna."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ingest.errors import UsageRefused
from sim.bundle import SiteBundle
from sim.channels import SiteChannels
from sim.paths import PathTable
from sim.site import Panel, Site
from sim.tracer import trace_site
from tests.sim.canyon import canyon
from tests.sim.sionna_arrays import in_our_order

pytestmark = [
    pytest.mark.tracer,
    pytest.mark.skipif(importlib.util.find_spec("sionna") is None, reason="Sionna RT is not installed (extra `twin`)"),
    pytest.mark.xdist_group("tracer"),
]

TONES_HZ = np.array([-10e6, 0.0, 4e6])
FLOOR = 10 ** (-50 / 20)
"""Amplitude below the strongest path under which a bundle leaves paths out."""


@dataclass(frozen=True)
class Reference:
    """Sionna's answer: cfr [R, elements, S] in our order of elements, and path amplitudes [R, L], 0 for none."""

    cfr: npt.NDArray[np.complex128]
    amplitudes: npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def twin() -> SiteBundle:
    site = canyon()
    return trace_site(site, site.twin, world=False, folder=Path())


def reference(site: Site, panel: Panel, pattern: str, receivers_m: npt.NDArray[np.float64]) -> Reference:
    """The channels from `panel` to isotropic receivers, all of it computed by Sionna RT."""
    import sionna.rt as rt

    scene = rt.load_scene(getattr(rt.scene, site.scene))
    scene.frequency = site.carrier_hz
    array = rt.PlanarArray(
        num_rows=panel.rows,
        num_cols=panel.columns,
        vertical_spacing=panel.spacing_wavelengths,
        horizontal_spacing=panel.spacing_wavelengths,
        pattern=pattern,
        polarization="V",
    )
    scene.tx_array = array
    scene.rx_array = rt.PlanarArray(num_rows=1, num_cols=1, pattern="iso", polarization="V")
    orientation = [float(np.radians(angle)) for angle in (panel.yaw_deg, panel.pitch_deg, 0.0)]
    scene.add(rt.Transmitter("tx", list(panel.position_m), orientation=orientation))
    for index, place in enumerate(receivers_m):
        scene.add(rt.Receiver(f"rx{index}", [float(x) for x in place]))
    paths = rt.PathSolver(deterministic=True)(
        scene,
        max_depth=site.twin.max_depth,
        samples_per_src=site.twin.samples,
        synthetic_array=True,
        refraction=False,
        seed=site.twin.seed,
    )
    cfr = paths.cfr(frequencies=TONES_HZ, normalize_delays=False, out_type="numpy")[:, 0, 0, :, 0, :]
    amplitudes = np.abs(paths.cir(normalize_delays=False, out_type="numpy")[0])[:, 0, 0, 0, :, 0]
    return Reference(cfr[:, in_our_order(array, panel)], np.where(np.array(paths.valid)[:, 0, :], amplitudes, 0.0))


def left_out(found: Reference, link: int) -> float:
    """Sum of the amplitudes of the paths that are too weak for a bundle."""
    amplitudes = found.amplitudes[link]
    return float(amplitudes[amplitudes < FLOOR * amplitudes.max()].sum())


def test_direct_channels_are_sionnas(twin: SiteBundle) -> None:
    site, channels = twin.site, SiteChannels(twin, plane_waves=True)
    found = reference(site, site.bs, site.bs.pattern, twin.positions_m)
    for link, position in enumerate(twin.positions_m):
        ours, theirs = channels.direct_cfr(position, TONES_HZ), found.cfr[link]
        slack = 1e-3 * np.abs(theirs).max() + left_out(found, link)
        assert np.abs(ours - theirs).max() < slack
        assert slack < 0.02 * np.abs(theirs).max()
        np.testing.assert_allclose(channels.direct(position), ours[:, 1], rtol=1e-9)


def test_ris_channels_are_sionnas(twin: SiteBundle) -> None:
    """The RIS's own pattern, which Sionna has not, is 1 here: compared are the paths and the phases of elements."""
    site = twin.site
    assert site.ris is not None
    as_iso = site.model_copy(update={"bs": site.ris.model_copy(update={"pattern": "iso"}), "ris": None})
    plain = Panel.model_validate(site.ris.model_dump(exclude={"efficiency_db"}))
    channels = SiteChannels(
        SiteBundle(
            site=as_iso.model_copy(update={"bs": plain}),
            settings=twin.settings,
            positions_m=twin.positions_m,
            bs_user=twin.ris_user,
            bs_ris=twin.bs_ris,
            ris_user=twin.ris_user,
            made_with={},
        ),
        plane_waves=True,
    )
    found = reference(site, site.ris, "iso", twin.positions_m)
    for link, position in enumerate(twin.positions_m):
        ours, theirs = channels.direct_cfr(position, TONES_HZ), found.cfr[link]
        assert np.abs(ours - theirs).max() < 1e-3 * np.abs(theirs).max() + left_out(found, link)


def test_the_first_hop_is_sionnas(twin: SiteBundle) -> None:
    """From every base-station antenna to the middle of the RIS."""
    site, hop = twin.site, twin.bs_ris
    assert site.ris is not None
    found = reference(site, site.bs, site.bs.pattern, np.array([site.ris.position_m]))
    for tone, offset_hz in enumerate(TONES_HZ):
        total = np.zeros(site.bs.elements, np.complex128)
        for row in range(hop.paths):
            phase = -2 * np.pi * (site.carrier_hz + offset_hz) * hop.length_m[row] / 299_792_458.0
            wave = 2 * np.pi / site.wavelength_m * site.bs.element_positions_m(site.wavelength_m)
            total += hop.gain[row] * np.exp(1j * (phase + wave @ hop.departure[row]))
        theirs = found.cfr[0, :, tone]
        assert np.abs(total - theirs).max() < 1e-3 * np.abs(theirs).max() + left_out(found, 0)


@pytest.mark.parametrize("name", ["bs_user", "ris_user", "bs_ris"])
def test_a_line_of_sight_is_the_straight_line(name: str, twin: SiteBundle) -> None:
    """Its length and both its directions are those between the two places."""
    site, table = twin.site, getattr(twin, name)
    assert site.ris is not None
    source = np.array(site.ris.position_m if name == "ris_user" else site.bs.position_m)
    places = np.array([site.ris.position_m]) if name == "bs_ris" else twin.positions_m
    seen = 0
    for link, place in enumerate(places):
        for row in range(table.offsets[link], table.offsets[link + 1]):
            if table.kind[row] == 0:
                way, seen = place - source, seen + 1
                length_m = np.linalg.norm(way)
                assert table.length_m[row] == pytest.approx(length_m, rel=1e-5)
                np.testing.assert_allclose(table.departure[row], way / length_m, atol=1e-4)
                np.testing.assert_allclose(table.arrival[row], -way / length_m, atol=1e-4)
    assert seen == len(places)


def test_an_isotropic_line_of_sight_is_friis(twin: SiteBundle) -> None:
    table = twin.ris_user
    sight = table.kind == 0
    expected = twin.site.wavelength_m / (4 * np.pi * table.length_m[sight])
    np.testing.assert_allclose(np.abs(table.gain[sight]), expected, rtol=1e-4)


def test_paths_come_strongest_first_and_none_too_weak(twin: SiteBundle) -> None:
    for table in (twin.bs_user, twin.ris_user, twin.bs_ris):
        for link in range(table.links):
            strength = np.abs(table.gain[table.rows(link)])
            assert np.all(np.diff(strength) <= 0)
            assert strength.min() >= FLOOR * strength.max()


def test_carried_paths_are_what_sionna_traces_there(twin: SiteBundle) -> None:
    """Ten centimetres, most of a wavelength, beside a grid point: carried on, not traced anew."""
    channels = SiteChannels(twin)
    place = twin.positions_m[2] + np.array([0.06, -0.08, 0.0])
    found = reference(twin.site, twin.site.bs, twin.site.bs.pattern, place[None])
    theirs = found.cfr[0]
    error = np.abs(channels.direct_cfr(place, TONES_HZ) - theirs).max()
    stale = np.abs(channels.direct_cfr(twin.positions_m[2], TONES_HZ) - theirs).max()
    assert error < 0.02 * np.abs(theirs).max() + left_out(found, 0)
    assert stale > 10 * error


def kinds(table: PathTable) -> set[int]:
    return {int(kind) for kind in table.kind}


def test_the_world_adds_what_the_twin_leaves_out(twin: SiteBundle) -> None:
    site = canyon(users={"corner_m": [6.0, -3.0], "size_m": [1.0, 1.0], "spacing_m": 6.0})
    world = trace_site(site, site.world, world=True, folder=Path())
    assert kinds(twin.bs_user) == {0, 1}
    assert any(kind & 2 for kind in kinds(world.bs_user))
    assert any(kind & 8 for kind in kinds(world.bs_user))
    assert world.settings == site.world
    assert set(world.made_with) == {"sionna-rt", "mitsuba", "drjit"}


def test_indoor_points_are_left_out_and_users_stand_on_the_ground(twin: SiteBundle) -> None:
    wide = canyon(ris=None, users={"corner_m": [0.0, -40.0], "size_m": [0.5, 80.0], "spacing_m": 4.0})
    bundle = trace_site(wide, wide.twin, world=False, folder=Path())
    kept = {y for _, y, _ in bundle.positions_m}
    assert 0 < len(kept) < 21
    assert 0.0 in kept
    assert bundle.bs_ris.paths == bundle.ris_user.paths == 0
    assert bundle.ris_user.links == len(bundle.positions_m)
    np.testing.assert_allclose(bundle.positions_m[:, 2], twin.positions_m[0, 2], atol=1e-3)


def test_materials_can_be_overridden_for_the_world_alone() -> None:
    """A wall that hardly differs from air reflects hardly anything."""
    walls = {name: {"relative_permittivity": 1.0, "conductivity_s_m": 0.0} for name in ("marble", "concrete", "brick")}
    small = {"corner_m": [6.0, -3.0], "size_m": [1.0, 1.0], "spacing_m": 6.0}
    import sionna.rt as rt

    known = rt.load_scene(rt.scene.simple_street_canyon).radio_materials
    overrides = {name: walls[name] for name in walls if name in known}
    assert overrides
    site = canyon(ris=None, users=small, world_materials=overrides, world={**canyon().twin.model_dump()})
    as_twin = trace_site(site, site.twin, world=False, folder=Path()).bs_user
    as_world = trace_site(site, site.twin, world=True, folder=Path()).bs_user
    reflected = [np.abs(table.gain[table.kind != 0]).sum() for table in (as_twin, as_world)]
    assert reflected[1] < 0.9 * reflected[0]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"scene": "nowhere"}, "no bundled scene 'nowhere'"),
        ({"scene": "_private"}, "no bundled scene"),
        ({"scene": "missing.xml"}, "no such scene file"),
        ({"materials": {"cheese": {"conductivity_s_m": 1.0}}}, "no material 'cheese' in the scene"),
        ({"users": {"corner_m": [0.0, 25.0], "size_m": [1.0, 1.0]}}, "are inside of buildings"),
        ({"ris": {"position_m": [10.0, 8.0, -50.0]}}, "behind the RIS's back"),
    ],
)
def test_a_site_that_cannot_be_traced_is_refused(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    site = canyon(**changes)
    with pytest.raises(UsageRefused) as refusal:
        trace_site(site, site.twin, world=False, folder=tmp_path)
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)
