"""The knobs are read to the letter, are off unless turned, and can stand where trace settings stand."""

from __future__ import annotations

import tomllib
from typing import Any

import numpy as np
import pytest

from ingest.errors import UsageRefused
from ingest.settings_file import validated
from sim.channels import SiteChannels
from sim.fidelity.knobs import GeometrySettings, PositionSettings, ReconstructionSettings
from sim.fidelity.position import misplaced, position_error, position_offsets_m, user_offsets_m
from sim.fidelity.settings import FidelitySettings
from sim.site import Site
from sim.trace_settings import TraceSettings
from tests.conftest import ROOT
from tests.sim.canyon import CANYON
from tests.sim.hand_made import free_space_bundle

FULL: dict[str, Any] = {
    "max_depth": 4,
    "max_paths": 2,
    "building_material": "itu_plasterboard",
    "materials": {"marble": {"relative_permittivity": 6.0}},
    "geometry": {"shift_length_m": 4.0, "reconstruction": {"density_m2": 0.5}, "fixed": ["bridge"]},
    "foliage": {"model": "weissberger", "trees": [{"middle_m": [0, 0, 5], "size_m": [4, 4, 6]}]},
    "hardware": {"field_of_view_deg": 140, "adc_bits": 6, "amplifier": {"backoff_db": 6.0}},
    "position": {"sigma_m": 0.5, "common": True},
}


def test_knobs_are_off_unless_turned() -> None:
    knobs = FidelitySettings()
    assert {name: getattr(knobs, name) for name in TraceSettings.model_fields} == TraceSettings().model_dump()
    assert not knobs.geometry.shifts
    assert knobs.geometry.reconstruction is None
    assert knobs.foliage.trees == ()
    assert knobs.position.sigma_m == 0.0
    hardware = knobs.hardware
    assert (hardware.field_of_view_deg, hardware.amplifier, hardware.adc_bits) == (None, None, None)
    assert hardware.mismatch_gain_db == hardware.mismatch_phase_deg == hardware.linewidth_hz == 0.0


def test_knobs_come_back_from_their_text_and_serve_as_trace_settings() -> None:
    knobs = validated(FidelitySettings, FULL, "world")
    assert isinstance(knobs, TraceSettings)
    assert knobs.geometry == GeometrySettings(
        shift_length_m=4.0, reconstruction=ReconstructionSettings(density_m2=0.5), fixed=("bridge",)
    )
    assert FidelitySettings.model_validate_json(knobs.model_dump_json()) == knobs
    with pytest.raises(ValueError, match="frozen"):
        knobs.max_depth = 1


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("geometry", "shift_m", [0.0, 1.0]),
        ("geometry", "shift_m", [0.0, 1.0, float("nan")]),
        ("geometry", "shift_sigma_m", -1.0),
        ("geometry", "shift_length_m", float("inf")),
        ("geometry", "reconstruction", {}),
        ("geometry", "reconstruction", {"density_m2": 0.0}),
        ("geometry", "reconstruction", {"density_m2": 1.0, "octree_depth": 20}),
        ("geometry", "seed", -1),
        ("foliage", "model", "jungle"),
        ("foliage", "limit_db", 0.0),
        ("foliage", "trees", [{"middle_m": [0, 0, 5], "size_m": [4, 4, 0]}]),
        ("hardware", "field_of_view_deg", 0.0),
        ("hardware", "linewidth_hz", -1.0),
        ("hardware", "adc_bits", 0),
        ("hardware", "adc_bits", 17),
        ("hardware", "adc_loading_db", 9.0),
        ("hardware", "own_oscillators", True),
        ("hardware", "amplifier", {"smoothness": 0.0}),
        ("position", "sigma_m", -0.1),
        ("position", "correlation_s", 0.0),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(table: str, key: str, value: Any) -> None:
    with pytest.raises(UsageRefused) as refusal:
        validated(FidelitySettings, {table: {key: value}}, "world")
    assert table in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_the_page_s_tables_are_those_of_a_site_file() -> None:
    page = (ROOT / "docs" / "fidelity.md").read_text()
    told = tomllib.loads(page.split("```toml\n")[1].split("```")[0])
    site = validated(Site, CANYON | told, "site.toml")
    assert site.twin.geometry.shift_length_m == 0.5
    assert site.world.foliage.trees[0].size_m == (6.0, 6.0, 7.0)
    assert site.world.hardware.on_signals == ["amplifier"]


def test_misspelt_knobs_and_unknown_materials_are_refused() -> None:
    with pytest.raises(UsageRefused, match="did you mean 'shift_sigma_m'"):
        validated(FidelitySettings, {"geometry": {"shift_sigma": 1.0}}, "world")
    with pytest.raises(UsageRefused, match="no material 'itu_cheese'"):
        validated(FidelitySettings, {"building_material": "itu_cheese"}, "world")


def test_a_misplaced_bundle_gives_a_user_its_neighbour_s_channel() -> None:
    """The bundle says of the channels at p that they are those at p + e."""
    bundle = free_space_bundle()
    settings = PositionSettings(sigma_m=0.2, seed=3)
    offsets = position_offsets_m(settings, len(bundle.positions_m))
    truth, wrong = SiteChannels(bundle), SiteChannels(misplaced(bundle, settings))
    for point in (0, 5, 9):
        place = bundle.positions_m[point]
        np.testing.assert_allclose(wrong.direct(place + offsets[point]), truth.direct(place), rtol=1e-9)
        assert np.abs(wrong.direct(place) - truth.direct(place)).max() > 1e-3 * np.abs(truth.direct(place)).max()


def test_position_errors_have_their_spread_and_may_be_common() -> None:
    apart = position_offsets_m(PositionSettings(sigma_m=0.5), 20_000)
    np.testing.assert_allclose(apart.std(axis=0), 0.5, rtol=0.02)
    together = position_offsets_m(PositionSettings(sigma_m=0.5, common=True), 10)
    np.testing.assert_array_equal(together, np.tile(together[0], (10, 1)))
    np.testing.assert_array_equal(position_offsets_m(PositionSettings(), 3), np.zeros((3, 3)))
    named = user_offsets_m(PositionSettings(sigma_m=0.5), ("a", "b", "a"))
    np.testing.assert_array_equal(named[0], named[2])
    assert np.abs(named[0] - named[1]).max() > 0.01
    assert user_offsets_m(PositionSettings(sigma_m=0.5), ()).shape == (0, 3)
    common = user_offsets_m(PositionSettings(sigma_m=0.5, common=True), ("a", "b"))
    np.testing.assert_array_equal(common[0], common[1])
    over_time = position_error(PositionSettings(sigma_m=2.0, correlation_s=1.0), np.random.default_rng(0))
    assert (over_time.sigma_m, over_time.correlation_s) == (2.0, 1.0)
