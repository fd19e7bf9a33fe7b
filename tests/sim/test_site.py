"""A site file is read to the letter or refused in one line; its arrays stand where it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from ingest.errors import UsageRefused
from ingest.settings_file import validated
from sim.fidelity.settings import FidelitySettings
from sim.site import (
    BaseStation,
    Geo,
    Material,
    Mount,
    Panel,
    Ris,
    Site,
    SurfaceMaterials,
    UserArea,
    load_site,
    site_digest,
    site_path,
    sites_folder,
)
from sim.trace_settings import TraceSettings

ANGLES = st.floats(-720, 720)
MOUNTS = st.builds(Mount, position_m=st.just((0.0, 0.0, 0.0)), yaw_deg=ANGLES, pitch_deg=ANGLES)
PANELS = st.builds(
    Panel,
    position_m=st.just((1.0, 2.0, 3.0)),
    yaw_deg=ANGLES,
    pitch_deg=ANGLES,
    rows=st.integers(1, 5),
    columns=st.integers(1, 5),
    spacing_wavelengths=st.floats(0.1, 2.0),
)

TEXT = """
name = "corner"
scene = "munich"
carrier_hz = 3.5e9
[bs]
position_m = [0.0, 1.0, 10.0]
rows = 2
columns = 4
[ris]
position_m = [5.0, 5.0, 5.0]
[users]
corner_m = [0.0, 0.0]
size_m = [10.0, 20.0]
[materials.concrete]
relative_permittivity = 5.3
"""


def tables() -> dict[str, Any]:
    """The site of `TEXT` as tables that a test may change."""
    return {
        "name": "corner",
        "scene": "munich",
        "carrier_hz": 3.5e9,
        "bs": {"position_m": [0.0, 1.0, 10.0], "rows": 2, "columns": 4},
        "ris": {"position_m": [5.0, 5.0, 5.0]},
        "users": {"corner_m": [0.0, 0.0], "size_m": [10.0, 20.0]},
        "twin": {},
        "world": {},
        "geo": {},
        "surfaces": {},
        "materials": {"concrete": {"relative_permittivity": 5.3}},
    }


def changed(path: str, value: Any) -> dict[str, Any]:
    """`tables` with the value at a dotted path replaced, or added."""
    found = tables()
    here = found
    *folders, last = path.split(".")
    for folder in folders:
        here = here[folder]
    here[last] = value
    return found


def refused(found: dict[str, Any]) -> str:
    """The line that refuses `found`."""
    with pytest.raises(UsageRefused) as refusal:
        validated(Site, found, "site.toml")
    line = str(refusal.value)
    assert "\n" not in line
    assert line.startswith("site.toml: ")
    return line


def test_a_file_is_read_to_the_letter(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text(TEXT)
    site = load_site(path)
    assert site == validated(Site, tables(), "")
    assert site.bs.elements == 8
    assert site.twin == FidelitySettings()
    assert site.world == FidelitySettings(max_depth=5, diffraction=True, scattering=0.3, max_paths=32)
    assert site.materials == {"concrete": Material(relative_permittivity=5.3)}
    assert site.wavelength_m == 299_792_458.0 / 3.5e9


def test_a_world_keeps_what_its_table_does_not_say() -> None:
    world = validated(Site, changed("world.seed", 7), "").world
    assert world == FidelitySettings(max_depth=5, diffraction=True, scattering=0.3, max_paths=32, seed=7)
    assert not validated(Site, changed("world.diffraction", False), "").world.diffraction


def every_key() -> list[tuple[str, str]]:
    """All (table, key) of a site file."""
    models: dict[str, type[BaseModel]] = {
        "": Site,
        "bs": BaseStation,
        "ris": Ris,
        "users": UserArea,
        "twin": FidelitySettings,
        "world": FidelitySettings,
        "geo": Geo,
        "surfaces": SurfaceMaterials,
    }
    return [(table, key) for table, model in models.items() for key in model.model_fields]


@pytest.mark.parametrize(("table", "key"), every_key())
def test_a_misspelt_key_is_named_with_the_nearest(table: str, key: str) -> None:
    wrong = key[:-2] + key[-1]
    line = refused(changed(f"{table}.{wrong}" if table else wrong, 1))
    assert f"unknown key '{table + '.' if table else ''}{wrong}'" in line
    assert f"did you mean '{key}'?" in line


def test_an_unlike_key_lists_the_known_ones() -> None:
    assert "known here: corner_m, height_m, places_m, size_m, spacing_m" in refused(changed("users.zzzz", 1))


@pytest.mark.parametrize("path", ["name", "scene", "carrier_hz", "bs", "users", "bs.position_m", "users.size_m"])
def test_a_missing_key_is_named(path: str) -> None:
    found = tables()
    here = found
    *folders, last = path.split(".")
    for folder in folders:
        here = here[folder]
    del here[last]
    assert f"key '{path}' is missing" in refused(found)


NOT_FINITE = (float("inf"), float("-inf"), float("nan"))
NUMBERS = (
    "carrier_hz",
    "bs.yaw_deg",
    "bs.pitch_deg",
    "bs.spacing_wavelengths",
    "ris.efficiency_db",
    "users.spacing_m",
    "users.height_m",
    "twin.scattering",
    "materials.concrete.relative_permittivity",
    "materials.concrete.conductivity_s_m",
)


@pytest.mark.parametrize("path", NUMBERS)
@pytest.mark.parametrize("value", [*NOT_FINITE, "north", [1.0], {}, None])
def test_numbers_are_finite_numbers(path: str, value: Any) -> None:
    if value is None and "materials" in path:
        return  # left out: as the scene has it
    assert f"'{path}'" in refused(changed(path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("name", ""),
        ("name", "two words"),
        ("name", "../up"),
        ("name", "x" * 65),
        ("carrier_hz", 1e7),
        ("carrier_hz", 1e13),
        ("bs.rows", 0),
        ("bs.rows", 257),
        ("bs.columns", 1.5),
        ("bs.spacing_wavelengths", 0.0),
        ("bs.pattern", "cardioid"),
        ("bs.position_m", [0.0, 0.0]),
        ("bs.position_m", [0.0, 0.0, float("nan")]),
        ("bs.position_m", [0.0, 0.0, 1e300]),
        ("ris.efficiency_db", 0.1),
        ("users.corner_m", [float("inf"), 0.0]),
        ("users.size_m", [0.0, 1.0]),
        ("users.size_m", [float("inf"), 1.0]),
        ("users.spacing_m", 0.0),
        ("users.spacing_m", -2.0),
        ("users.spacing_m", 0.005),
        ("users.height_m", -1.0),
        ("twin.max_depth", -1),
        ("twin.max_paths", 0),
        ("twin.samples", 10),
        ("twin.diffraction", "perhaps"),
        ("world.seed", 0),
        ("materials.concrete", 3),
        ("materials.concrete.relative_permittivity", 0.5),
    ],
)
def test_values_out_of_bounds_are_refused(path: str, value: Any) -> None:
    line = refused(changed(path, value))
    assert f"'{path.split('.')[0]}" in line


def test_text_that_is_no_site_is_refused(tmp_path: Path) -> None:
    for name, content in {"a": b"name = ", "b": b"\xff\xfe", "c": b"", "d": b"name = 3\n"}.items():
        path = tmp_path / f"{name}.toml"
        path.write_bytes(content)
        with pytest.raises(UsageRefused) as refusal:
            load_site(path)
        assert str(path) in str(refusal.value)
        assert "\n" not in str(refusal.value)
    for missing in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(UsageRefused):
            load_site(missing)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(every_key()), VALUES)
@settings(max_examples=400, deadline=None)
def test_any_value_is_refused_in_one_line_or_usable(place: tuple[str, str], value: Any) -> None:
    """What is accepted can be worked with: every number that is derived from it is finite."""
    table, key = place
    try:
        site = validated(Site, changed(f"{table}.{key}" if table else key, value), "site.toml")
    except UsageRefused as refusal:
        assert "\n" not in str(refusal)  # noqa: PT017
        return
    for panel in (site.bs, site.ris):
        if panel is not None:
            assert np.isfinite(panel.element_positions_m(site.wavelength_m)).all()
    assert np.isfinite(site.users.grid_m()).all()
    assert Site.model_validate_json(site.model_dump_json()) == site


@given(MOUNTS)
@settings(max_examples=100, deadline=None)
def test_axes_are_a_right_handed_orthonormal_base(mount: Mount) -> None:
    axes = mount.rotation()
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-12)
    assert np.linalg.det(axes) == pytest.approx(1.0)
    assert axes[2, 0] == pytest.approx(-np.sin(np.radians(mount.pitch_deg)), abs=1e-12)
    assert axes[2, 1] == pytest.approx(0.0, abs=1e-12)


def test_yaw_turns_to_the_left_and_pitch_down() -> None:
    turned = Mount(position_m=(0.0, 0.0, 0.0), yaw_deg=90.0).rotation()
    np.testing.assert_allclose(turned, np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]]), atol=1e-15)
    down = Mount(position_m=(0.0, 0.0, 0.0), pitch_deg=90.0).rotation()
    np.testing.assert_allclose(down[:, 0], [0, 0, -1], atol=1e-15)
    np.testing.assert_allclose(down[:, 2], [1, 0, 0], atol=1e-15)


@given(PANELS, st.floats(0.001, 1.0))
@settings(max_examples=60, deadline=None)
def test_elements_stand_in_rows_from_the_top_left(panel: Panel, wavelength_m: float) -> None:
    positions = panel.element_positions_m(wavelength_m).reshape(panel.rows, panel.columns, 3)
    boresight, left, up = panel.rotation().T
    step_m = panel.spacing_wavelengths * wavelength_m
    for row in range(panel.rows):
        for column in range(panel.columns):
            expected = step_m * (((panel.rows - 1) / 2 - row) * up + ((panel.columns - 1) / 2 - column) * left)
            np.testing.assert_allclose(positions[row, column], expected, atol=1e-12)
    assert abs(positions.reshape(-1, 3) @ boresight).max() < 1e-12
    np.testing.assert_allclose(positions.reshape(-1, 3).mean(axis=0), 0, atol=1e-12)


def test_the_first_element_is_at_the_top_left() -> None:
    panel = Panel(position_m=(0.0, 0.0, 0.0), rows=2, columns=2)
    np.testing.assert_allclose(
        panel.element_positions_m(2.0), [[0, 0.5, 0.5], [0, -0.5, 0.5], [0, 0.5, -0.5], [0, -0.5, -0.5]], atol=1e-15
    )


def test_the_grid_fills_the_area() -> None:
    area = UserArea(corner_m=(-3.0, 4.0), size_m=(6.0, 4.5), spacing_m=1.5, height_m=1.2)
    grid = area.grid_m()
    assert sorted(set(grid[:, 0])) == [-3.0, -1.5, 0.0, 1.5, 3.0]
    assert sorted(set(grid[:, 1])) == [4.0, 5.5, 7.0, 8.5]
    assert set(grid[:, 2]) == {1.2}
    assert len(np.unique(grid, axis=0)) == len(grid) == 20


def test_places_come_after_the_grid() -> None:
    area = UserArea(
        corner_m=(0.0, 0.0), size_m=(1.0, 1.0), spacing_m=1.0, height_m=1.2, places_m=((9.0, 8.0), (7.0, 6.0))
    )
    assert area.grid_m()[4:].tolist() == [[9.0, 8.0, 1.2], [7.0, 6.0, 1.2]]
    assert np.array_equal(area.named_places_m(), area.grid_m()[4:])
    plain = UserArea(corner_m=(0.0, 0.0), size_m=(1.0, 1.0), spacing_m=1.0)
    assert plain.named_places_m().shape == (0, 3)
    assert len(plain.grid_m()) == 4


def test_a_grid_without_end_is_refused() -> None:
    line = refused(changed("users", {"corner_m": [0, 0], "size_m": [2000.0, 2000.0], "spacing_m": 1.0}))
    assert "enlarge spacing_m" in line


def test_sites_are_found_by_path_folder_and_name(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(TEXT)
    assert site_path(str(tmp_path)) == tmp_path / "site.toml"
    assert site_path(str(tmp_path / "site.toml")) == tmp_path / "site.toml"
    assert site_path("munich") == sites_folder() / "munich" / "site.toml"
    with pytest.raises(UsageRefused, match="munich"):
        site_path("mnuich")


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "no/such/place", "~nobody"])
def test_a_name_that_no_file_can_have_is_refused(name: str) -> None:
    with pytest.raises(UsageRefused, match="no such site"):
        site_path(name)


def test_a_digest_tells_sites_apart() -> None:
    site = validated(Site, tables(), "")
    assert site_digest(site) == site_digest(validated(Site, tables(), ""))
    assert site_digest(site) != site_digest(validated(Site, changed("bs.rows", 3), ""))


def test_knobs_that_are_off_leave_a_site_s_text_and_digest_as_they_were_before_there_were_any() -> None:
    site = validated(Site, tables(), "")
    knobs = set(FidelitySettings.model_fields) - set(TraceSettings.model_fields)
    for table in (site.twin, site.world):
        assert knobs.isdisjoint(table.model_dump())
        assert set(table.model_dump()) == set(TraceSettings.model_fields)
    turned = validated(Site, changed("twin.foliage", {"trees": [{"middle_m": [0, 0, 5], "size_m": [4, 4, 6]}]}), "")
    assert "foliage" in turned.model_dump()["twin"]
    assert site_digest(turned) != site_digest(site)
    assert Site.model_validate_json(turned.model_dump_json()) == turned


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("twin.hardware", {"linewidth_hz": 100.0}, "linewidth_hz acts on signals"),
        ("twin.hardware", {"amplifier": {}}, "amplifier acts on signals"),
        ("twin.hardware", {"adc_bits": 4}, "adc_bits acts on signals"),
        ("twin.position", {"sigma_m": 1.0, "correlation_s": 9.0}, "correlation_s acts over time"),
    ],
)
def test_a_twin_refuses_knobs_that_it_would_not_obey(key: str, value: Any, told: str) -> None:
    assert told in refused(changed(key, value))
    validated(Site, changed(key.replace("twin", "world"), value), "")


def test_munich_loads() -> None:
    site = load_site(site_path("munich"))
    assert (site.name, site.scene, site.bs.elements) == ("munich", "munich", 16)
    assert site.ris is not None
    assert site.ris.elements == 256
    assert site.world.max_depth > site.twin.max_depth
