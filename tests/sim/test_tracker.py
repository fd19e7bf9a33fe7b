"""Users between traces: exact where geometry says so, faded where paths begin or end, and honest about the rest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from sim.bundle import SiteBundle
from sim.channels import SiteArrays, SiteChannels
from sim.paths import PathTable, empty_table
from sim.tracker import PathTracker, Trace, relative_error_db
from tests.sim.hand_made import BS, RIS, SPEED_OF_LIGHT_M_S, free_space_bundle, line_of_sight, random_bundle

Real = npt.NDArray[np.float64]

WAVELENGTH_M = SPEED_OF_LIGHT_M_S / 3.5e9
HERE = np.array([[12.0, -5.0, 1.5], [15.0, -4.0, 1.5]])


def traced(positions_m: Real, *users: str, t_ns: int = 0) -> Trace:
    """A trace in free space."""
    return Trace(
        t_ns,
        users,
        positions_m,
        line_of_sight(np.array(BS.position_m), positions_m, WAVELENGTH_M),
        line_of_sight(np.array(RIS.position_m), positions_m, WAVELENGTH_M),
    )


def arrays(bundle: SiteBundle) -> SiteArrays:
    return SiteArrays(bundle.site, bundle.bs_ris)


def error_db(found: npt.NDArray[np.complex128], true: npt.NDArray[np.complex128]) -> float:
    return float(relative_error_db(found, true).max())


def test_in_free_space_users_are_followed_exactly() -> None:
    tracker = PathTracker(arrays(free_space_bundle()))
    tracker.take(traced(HERE, "a", "b"))
    there = HERE + np.array([[1.0, 0.6, 0.0], [-0.3, 0.8, 0.2]])
    truth = PathTracker(tracker.arrays)
    truth.take(traced(there, "a", "b"))
    assert error_db(tracker.cascades(["a", "b"], there), truth.cascades(["a", "b"], there)) < -50.0
    assert error_db(tracker.cascades(["a", "b"], HERE), truth.cascades(["a", "b"], there)) > -10.0


def test_a_fresh_trace_tells_how_far_the_prediction_was() -> None:
    tracker = PathTracker(arrays(free_space_bundle()))
    tracker.take(traced(HERE, "a", "b"))
    assert tracker.errors_db == {}
    tracker.take(traced(HERE[:1] + 0.3, "a", t_ns=1))
    assert set(tracker.errors_db) == {"a"}
    assert tracker.errors_db["a"] < -50.0
    louder = traced(HERE[:1] + 0.6, "a", t_ns=2)
    tracker.take(replace(louder, bs_user=scaled(louder.bs_user, 2.0), ris_user=scaled(louder.ris_user, 2.0)))
    assert tracker.errors_db["a"] == pytest.approx(20 * np.log10(0.5), abs=0.1)


def scaled(table: PathTable, factor: float) -> PathTable:
    return replace(table, gain=factor * table.gain)


def test_between_two_traces_what_only_one_has_fades() -> None:
    """Half-way, a path that began on the way counts half; near a trace that trace counts."""
    tracker = PathTracker(arrays(free_space_bundle()))
    start, end = HERE[:1], HERE[:1] + np.array([[0.8, 0.0, 0.0]])
    silent = replace(traced(start, "a"), bs_user=empty_table(1), ris_user=empty_table(1))
    tracker.take(silent)
    tracker.take(traced(end, "a", t_ns=1))
    whole = PathTracker(tracker.arrays)
    whole.take(traced(end, "a"))
    for share in (0.25, 0.5, 1.0):
        place = start + share * (end - start)
        found, full = tracker.cascades(["a"], place), whole.cascades(["a"], place)
        np.testing.assert_allclose(found, share * full, atol=1e-5 * np.abs(full).max())


def test_only_the_newest_traces_are_kept() -> None:
    tracker = PathTracker(arrays(free_space_bundle()))
    tracker.take(traced(HERE[:1], "gone"))
    for t_ns in (1, 2):
        assert tracker.knows("gone")
        tracker.take(traced(HERE[1:], "b", t_ns=t_ns))
    assert not tracker.knows("gone")
    assert "gone" not in tracker.errors_db
    with pytest.raises(KeyError, match="gone"):
        tracker.cascades(["gone"], HERE[:1])
    assert np.isfinite(tracker.cascades(["b"], HERE[1:])).all()  # a refused question leaves nothing behind


def test_users_of_different_traces_are_asked_for_together() -> None:
    tracker = PathTracker(arrays(free_space_bundle()))
    tracker.take(traced(HERE[:1], "a"))
    tracker.take(traced(HERE[1:], "b", t_ns=1))
    tracker.take(traced(np.zeros((0, 3)), t_ns=2))  # nobody was there: nothing new
    both = tracker.cascades(["b", "a"], HERE[::-1] + 0.2)
    for row, user, place in ((0, "b", HERE[1:]), (1, "a", HERE[:1])):
        np.testing.assert_array_equal(both[row], tracker.cascades([user], place + 0.2)[0])


def test_at_the_place_of_a_trace_the_cascade_is_the_bundles(rng: np.random.Generator) -> None:
    """The tracker and the grid of a bundle make the same of the same paths."""
    bundle = random_bundle(rng)
    tracker = PathTracker(arrays(bundle))
    users = tuple(f"ue{index}" for index in range(len(bundle.positions_m)))
    tracker.take(Trace(0, users, bundle.positions_m, bundle.bs_user, bundle.ris_user))
    found, channels = tracker.cascades(users, bundle.positions_m), SiteChannels(bundle)
    for cascade, place in zip(found, bundle.positions_m, strict=True):
        np.testing.assert_allclose(cascade, channels.cascade(place), atol=1e-15)


def test_a_silent_truth_has_no_relative_error() -> None:
    assert np.isnan(relative_error_db(np.ones((1, 2), complex), np.zeros((1, 2), complex))).all()


def test_a_trace_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="differ in number"):
        replace(traced(HERE, "a", "b"), users=("a",))
