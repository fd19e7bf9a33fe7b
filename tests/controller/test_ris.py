"""RIS phases: alignment never falls, ends where nothing can be gained, and finds the optimum where there is one."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.beamforming.ris import align_phases, choose_states, conjugate_phases, nearest_states
from controller.covariance import Complex
from tests.random_channels import complex_normal, unit_phases

pytestmark = pytest.mark.kernel

FLOOR = 1e-9


def powers(cascades: Complex, theta: Complex) -> Complex:
    """|h_k|^2 of every user under theta."""
    found = [np.linalg.norm(np.append(1.0, theta) @ cascade) ** 2 for cascade in cascades]
    return np.array(found)


def objective(cascades: Complex, theta: Complex, floor: float = FLOOR) -> float:
    return float(np.sum(np.log(floor + powers(cascades, theta))))


def random_cascades(rng: np.random.Generator, users: int, elements: int, antennas: int) -> Complex:
    """Users of very unlike strength, some with hardly any direct channel."""
    cascades = complex_normal(rng, users, elements + 1, antennas) * np.exp(2 * rng.normal(size=(users, 1, 1)))
    cascades[:, 0] *= rng.choice([0.01, 1.0, 5.0])
    return np.asarray(cascades)


SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 3), st.integers(0, 2**32 - 1))


@given(SHAPES)
@settings(max_examples=60, deadline=None)
def test_alignment_never_falls(shape: tuple[int, int, int, int]) -> None:
    users, elements, antennas, seed = shape
    rng = np.random.default_rng(seed)
    cascades, start = random_cascades(rng, users, elements, antennas), unit_phases(rng, elements)
    theta = start.copy()
    track = align_phases(cascades, FLOOR, theta, 5)
    assert track.shape == (6,)
    assert np.all(np.diff(track) >= -1e-9 * np.abs(track[1:]).max())
    assert track[0] == pytest.approx(objective(cascades, start), rel=1e-9, abs=1e-9)
    assert track[-1] == pytest.approx(objective(cascades, theta), rel=1e-9, abs=1e-9)
    np.testing.assert_allclose(np.abs(theta), 1.0, rtol=1e-12)


@given(SHAPES)
@settings(max_examples=15, deadline=None)
def test_alignment_ends_where_nothing_is_gained(shape: tuple[int, int, int, int]) -> None:
    """At convergence the derivative in every phase is none: central differences of the objective itself."""
    users, elements, antennas, seed = shape
    rng = np.random.default_rng(seed)
    cascades, theta = random_cascades(rng, users, elements, antennas), unit_phases(rng, elements)
    align_phases(cascades, FLOOR, theta, 600)
    for m in range(elements):
        turned = []
        for sign in (1, -1):
            other = theta.copy()
            other[m] *= np.exp(1e-4j * sign)
            turned.append(objective(cascades, other))
        slope = (turned[0] - turned[1]) / 2e-4
        assert abs(slope) < 2e-2 * users


def test_one_user_and_one_antenna_align_in_one_sweep(rng: np.random.Generator) -> None:
    """Closed form: every element into phase with the direct path; moduli add up."""
    cascades = complex_normal(rng, 1, 9, 1)
    theta = unit_phases(rng, 8)
    align_phases(cascades, FLOOR, theta, 200)
    assert powers(cascades, theta)[0] == pytest.approx(np.abs(cascades).sum() ** 2, rel=1e-6)
    phases = np.angle(theta * cascades[0, 1:, 0]) - np.angle(cascades[0, 0, 0])
    np.testing.assert_allclose(np.exp(1j * phases), 1.0, atol=1e-3)


def test_one_element_is_set_in_one_step(rng: np.random.Generator) -> None:
    """A single element serving one user of many antennas: theta = conj(a) / |a|, a = sum_n c_n h_n^*."""
    cascades = complex_normal(rng, 1, 2, 5)
    theta = unit_phases(rng, 1)
    align_phases(cascades, FLOOR, theta, 1)
    slope = np.vdot(cascades[0, 0], cascades[0, 1])
    assert theta[0] == pytest.approx(slope.conjugate() / abs(slope))


def test_a_tiny_ris_reaches_the_optimum_of_a_grid(rng: np.random.Generator) -> None:
    """All pairs of 180 phases. From a few starts the best is found to the grid's precision; one start comes near it."""
    circle = np.exp(2j * np.pi * np.arange(180) / 180)
    for _ in range(5):
        cascades = complex_normal(rng, 2, 3, 2)
        first, second = cascades[:, 1, :, None, None] * circle[:, None], cascades[:, 2, :, None, None] * circle
        received = np.sum(np.abs(cascades[:, 0, :, None, None] + first + second) ** 2, axis=1)
        best = float(np.sum(np.log(FLOOR + received), axis=0).max())
        found = []
        for _ in range(5):
            theta = conjugate_phases(cascades, unit_phases(rng, 2), 40)
            found.append(objective(cascades, theta))
        assert max(found) > best - 5e-3
        assert np.median(found) > best - 1.0


@given(SHAPES)
@settings(max_examples=60, deadline=None)
def test_designed_states_are_on_the_circle_and_no_worse(shape: tuple[int, int, int, int]) -> None:
    users, elements, antennas, seed = shape
    rng = np.random.default_rng(seed)
    cascades, start = random_cascades(rng, users, elements, antennas), unit_phases(rng, elements)
    theta = conjugate_phases(cascades, start, 3)
    assert theta.dtype == np.complex128
    np.testing.assert_allclose(np.abs(theta), 1.0, atol=1e-6)
    assert np.array_equal(theta, theta.astype(np.complex64))
    floor = 1e-6 * float(np.max(np.sum(np.abs(cascades) ** 2, axis=(1, 2))))
    assert objective(cascades, theta, floor) >= objective(cascades, start, floor) - 1e-3


def test_the_shadowed_user_counts_as_much(rng: np.random.Generator) -> None:
    """Alone each user's optimum is known; the weak one keeps more of its own than a sum of powers would leave it."""
    cascades = complex_normal(rng, 2, 33, 1)
    cascades[1] *= 1e-2
    theta = conjugate_phases(cascades, unit_phases(rng, 32), 20)
    alone = np.abs(cascades).sum(axis=(1, 2)) ** 2
    kept = powers(cascades, theta) / alone
    assert kept.min() > 0.25


def test_without_a_path_the_ris_stays_as_it_is(rng: np.random.Generator) -> None:
    cascades, start = complex_normal(rng, 2, 5, 3), unit_phases(rng, 4)
    cascades[:, 1:] = 0.0
    found = conjugate_phases(cascades, start, 3)
    assert np.array_equal(found, start)
    found[0] = 0.0
    assert start[0] != 0.0


def test_elements_without_a_path_stay_as_they_are(rng: np.random.Generator) -> None:
    cascades, theta = complex_normal(rng, 2, 5, 3), unit_phases(rng, 4)
    cascades[:, 2] = 0.0
    before = theta.copy()
    align_phases(cascades, FLOOR, theta, 3)
    assert theta[1] == before[1]
    assert np.all(theta[[0, 2, 3]] != before[[0, 2, 3]])


def test_inputs_are_left_alone(rng: np.random.Generator) -> None:
    cascades, start = complex_normal(rng, 2, 5, 3), unit_phases(rng, 4)
    copies = cascades.copy(), start.copy()
    conjugate_phases(cascades, start, 2)
    assert np.array_equal(cascades, copies[0])
    assert np.array_equal(start, copies[1])
    assert np.array_equal(conjugate_phases(cascades, start, 0), start.astype(np.complex64))


MEASURED = np.array([10 ** (-4.8 / 20), 10 ** (-5.2 / 20) * np.exp(1j * np.radians(92))])
"""A panel of one bit, its states no opposites (a 5 GHz panel as it was measured)."""


@given(SHAPES)
@settings(max_examples=40, deadline=None)
def test_no_single_state_betters_what_is_chosen(shape: tuple[int, int, int, int]) -> None:
    users, elements, antennas, seed = shape
    rng = np.random.default_rng(seed)
    cascades = random_cascades(rng, users, elements, antennas)
    theta = rng.choice(MEASURED, elements)
    before = objective(cascades, theta)
    told = choose_states(cascades, FLOOR, MEASURED, theta, 50)
    assert told == pytest.approx(objective(cascades, theta), abs=1e-9)
    assert told >= before - 1e-9
    for element, state in product(range(elements), MEASURED):
        other = theta.copy()
        other[element] = state
        assert objective(cascades, other) <= told + 1e-9


def test_states_are_near_the_best_of_all(rng: np.random.Generator) -> None:
    """Within 1 dB of exhaustive search over 8 elements, in nine of ten problems."""
    lost_db = []
    for _ in range(20):
        cascades = complex_normal(rng, 1, 9, 3)
        found = nearest_states(cascades, np.full(8, MEASURED[0]), 20, MEASURED)
        assert np.isin(found, MEASURED).all()
        best = max(powers(cascades, np.array(theta))[0].real for theta in product(MEASURED, repeat=8))
        lost_db.append(10 * np.log10(best / powers(cascades, found)[0].real))
    assert np.quantile(lost_db, 0.9) < 1.0
    assert min(lost_db) > -1e-9


def test_states_without_a_path_over_the_ris_stay() -> None:
    cascades = np.zeros((2, 4, 3), np.complex128)
    cascades[:, 0] = 1.0
    start = MEASURED[[0, 1, 0]]
    assert np.array_equal(nearest_states(cascades, start, 5, MEASURED), start)
