"""A bundle comes back as it was saved; a file that is damaged, foreign or contradicts itself is refused in one line."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest.errors import InputRefused, UsageRefused
from sim.bundle import LINKS, SiteBundle, load_bundle, save_bundle
from sim.fidelity.settings import FidelitySettings
from sim.paths import PathTable
from sim.site import load_site, sites_folder
from tests.sim.hand_made import random_bundle, random_table

SEAL_BYTES = len("\n# twinbeam sha256 \n") + 64


def same(left: SiteBundle, right: SiteBundle) -> bool:
    """Equal to the last bit, but for where they lie."""
    if (left.site, left.settings, left.made_with) != (right.site, right.settings, right.made_with):
        return False
    arrays = [(left.positions_m, right.positions_m)]
    for name in LINKS:
        ours, theirs = getattr(left, name), getattr(right, name)
        arrays += [(getattr(ours, column.name), getattr(theirs, column.name)) for column in fields(PathTable)]
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in arrays)


@pytest.fixture
def saved(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A bundle on disk."""
    path = tmp_path / "twin.h5"
    save_bundle(random_bundle(rng), path)
    return path


def reseal(path: Path) -> None:
    """What a program other than ours would append: the line that says the file is whole."""
    body = path.read_bytes()
    path.write_bytes(body + f"\n# twinbeam sha256 {hashlib.sha256(body).hexdigest()}\n".encode())


def refused(path: Path) -> str:
    with pytest.raises(InputRefused) as refusal:
        load_bundle(path)
    line = str(refusal.value)
    assert "\n" not in line
    assert line.startswith(f"{path}: ")
    assert "twinbeam twin build" in line
    return line


@pytest.mark.parametrize("ris", [True, False])
def test_a_bundle_comes_back_as_it_was(ris: bool, tmp_path: Path, rng: np.random.Generator) -> None:
    bundle = random_bundle(rng, ris=ris)
    path = tmp_path / "twin.h5"
    save_bundle(bundle, path)
    loaded = load_bundle(path)
    assert same(loaded, bundle)
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [one.name for one in tmp_path.iterdir()] == ["twin.h5"]


def test_equal_bundles_are_equal_files(saved: Path) -> None:
    first = saved.read_bytes()
    save_bundle(load_bundle(saved), saved)
    assert saved.read_bytes() == first


def test_a_bundle_is_plain_hdf5(saved: Path) -> None:
    """Whoever knows nothing of us reads it with any HDF5 tool."""
    with h5py.File(saved, "r") as file:
        assert file.attrs["schema"] == "twinbeam.site-bundle/2"
        assert file["bs_user/gain"].dtype == np.complex64


def test_rows_of_a_link(rng: np.random.Generator) -> None:
    table = random_table(rng, [2, 0, 3])
    assert (table.links, table.paths) == (3, 5)
    assert [table.rows(link) for link in range(3)] == [slice(0, 2), slice(2, 2), slice(2, 5)]


def test_a_failed_save_leaves_the_old_file(saved: Path, rng: np.random.Generator) -> None:
    before = saved.read_bytes()
    broken = replace(random_bundle(rng), positions_m=np.array([["a"]]))
    with pytest.raises(ValueError, match="could not convert"):
        save_bundle(broken, saved)
    assert saved.read_bytes() == before


def test_no_file_is_a_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(UsageRefused, match="no such bundle"):
        load_bundle(tmp_path / "none.h5")


@pytest.mark.parametrize("content", [b"", b"no bundle", b"\x89HDF\r\n\x1a\n", bytes(1000), b"x" * SEAL_BYTES])
def test_foreign_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "twin.h5"
    path.write_bytes(content)
    assert "not written by twinbeam" in refused(path)
    reseal(path)
    assert "is not a site bundle" in refused(path)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    refused(tmp_path)


def test_a_foreign_hdf5_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(3)
    assert "damaged, or not written by twinbeam" in refused(path)
    reseal(path)
    assert "schema '' is not" in refused(path)


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_is_refused(data: st.DataObject, saved: Path) -> None:
    """Any byte changed, any part cut off or added. (HDF5 alone loops for ever on some of these files.)"""
    whole = saved.read_bytes()
    damaged = bytearray(whole)
    kind = data.draw(st.sampled_from(["flip", "cut", "grow"]))
    if kind == "flip":
        damaged[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        del damaged[data.draw(st.integers(0, len(whole) - 1)) :]
    else:
        damaged += data.draw(st.binary(min_size=1, max_size=200))
    path = saved.with_name("damaged.h5")
    path.write_bytes(damaged)
    assert "damaged" in refused(path)


Change = Callable[[Any], None]


def rewritten(name: str, values: Any) -> Change:
    """Puts another data set in the place of `name`."""

    def change(file: Any) -> None:
        del file[name]
        file[name] = values

    return change


def altered(name: str, index: Any, value: Any) -> Change:
    """Changes one number of a data set."""

    def change(file: Any) -> None:
        values = file[name][()]
        values[index] = value
        rewritten(name, values)(file)

    return change


def attribute(name: str, value: Any) -> Change:
    def change(file: Any) -> None:
        file.attrs[name] = value

    return change


def without(name: str) -> Change:
    def change(file: Any) -> None:
        del file[name]

    return change


def endless(file: Any) -> None:
    """A data set that takes no place on disk and all of memory."""
    del file["bs_user/gain"]
    file.create_dataset("bs_user/gain", (2**40,), "<c8", chunks=(2**16,))


def linked_away(file: Any) -> None:
    del file["bs_ris"]
    file["bs_ris"] = h5py.ExternalLink("/nowhere.h5", "/bs_ris")


CHANGES: dict[str, Change] = {
    "older version": attribute("schema", "twinbeam.site-bundle/0"),
    "schema is a number": attribute("schema", 3),
    "no site": lambda file: file.attrs.__delitem__("site"),
    "site is no JSON": attribute("site", "{"),
    "site is a number": attribute("site", 7),
    "site of another program": attribute("site", '{"name": "x"}'),
    "settings out of bounds": attribute("settings", '{"max_depth": -1}'),
    "made with what": attribute("made_with", "[1, 2]"),
    "no positions": without("positions_m"),
    "positions are a group": lambda file: (without("positions_m")(file), file.create_group("positions_m")),
    "positions of two numbers": rewritten("positions_m", np.zeros((20, 2))),
    "positions in one row": rewritten("positions_m", np.zeros(3)),
    "a position": rewritten("positions_m", 1.0),
    "nobody anywhere": rewritten("positions_m", np.zeros((0, 3))),
    "nowhere": altered("positions_m", (0, 1), np.nan),
    "fewer positions": rewritten("positions_m", np.zeros((19, 3))),
    "no table": without("bs_user"),
    "a table is an array": rewritten("bs_user", np.zeros(3)),
    "a table elsewhere": linked_away,
    "no gains": without("bs_user/gain"),
    "gains as text": rewritten("bs_user/gain", "many"),
    "gains in single file": rewritten("bs_user/gain", np.zeros((1, 3), np.complex64)),
    "real gains": rewritten("bs_user/gain", np.zeros(3, np.float32)),
    "fewer gains": rewritten("bs_user/gain", np.zeros(3, np.complex64)),
    "more gains than memory": endless,
    "gain is NaN": altered("bs_user/gain", 1, complex(np.nan, 0)),
    "length is infinite": altered("ris_user/length_m", 0, np.inf),
    "length is negative": altered("ris_user/length_m", 0, -3.0),
    "direction is NaN": altered("bs_ris/arrival", (0, 0), np.nan),
    "direction is no unit vector": altered("bs_ris/departure", (0, 0), 5.0),
    "directions turned about": rewritten("bs_ris/departure", np.zeros((3, 3, 1), np.float32)),
    "kinds are floats": rewritten("bs_ris/kind", np.zeros(3)),
    "no offsets": rewritten("bs_user/offsets", np.zeros(0, np.int64)),
    "offsets in a square": rewritten("bs_user/offsets", np.zeros((2, 2), np.int64)),
    "offsets start late": altered("bs_user/offsets", 0, 1),
    "offsets end early": altered("bs_user/offsets", -1, 1),
    "offsets go back": altered("bs_user/offsets", 3, 10**6),
    "offsets are floats": rewritten("bs_user/offsets", np.zeros(21)),
    "one link too many": rewritten("bs_ris/offsets", np.array([0, 3, 3])),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_contents_that_do_not_fit_are_refused(change: Change, saved: Path) -> None:
    """Whole files by their seal, whose contents no tracer has written."""
    saved.write_bytes(saved.read_bytes()[:-SEAL_BYTES])
    with h5py.File(saved, "r+") as file:
        change(file)
    reseal(saved)
    refused(saved)


def test_a_version_is_named(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:-SEAL_BYTES])
    with h5py.File(saved, "r+") as file:
        file.attrs["schema"] = "twinbeam.site-bundle/1"
    reseal(saved)
    assert "schema 'twinbeam.site-bundle/1' is not 'twinbeam.site-bundle/2'" in refused(saved)


@pytest.mark.parametrize("name", ["twin", "world"])
@pytest.mark.parametrize("place", ["munich", "quad"])
def test_sites_ship_whole(place: str, name: str) -> None:
    folder = sites_folder() / place
    path = folder / f"{name}.h5"
    assert path.stat().st_size < 5e6
    bundle, site = load_bundle(path), load_site(folder / "site.toml")
    expected: FidelitySettings = getattr(site, name)
    assert bundle.site == site
    assert bundle.settings == expected
    assert set(bundle.made_with) == {"sionna-rt", "mitsuba", "drjit"}
    assert bundle.bs_ris.paths > 0
    assert np.diff(bundle.bs_user.offsets).max() <= expected.max_paths
    grid = {(x, y) for x, y, _ in site.users.grid_m()}
    assert {(x, y) for x, y, _ in bundle.positions_m} <= grid


@pytest.mark.parametrize("place", ["munich", "quad"])
def test_a_world_is_richer_than_its_twin(place: str) -> None:
    twin, world = (load_bundle(sites_folder() / place / f"{name}.h5") for name in ("twin", "world"))
    assert np.array_equal(twin.positions_m, world.positions_m)
    assert world.bs_user.paths > twin.bs_user.paths
