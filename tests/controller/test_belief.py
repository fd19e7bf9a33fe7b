"""Conditioning is the dense LMMSE, and a belief's effective channel is that of the dense posterior."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.belief import ChannelBelief, Observation, condition
from controller.covariance import Complex, LowRankDiagonal
from tests.random_channels import complex_normal, dense, random_covariance, unit_phases

pytestmark = pytest.mark.kernel

ROWS, ANTENNAS = 4, 3
LOOKS = [(1, None), (1, 2), (1, 5), (3, None), (2, 2), (6, None), (4, 4)]
"""Patterns and beams; None are the antennas themselves."""


def observation(rng: np.random.Generator, patterns: int, beams: int | None, noise_power: float = 0.2) -> Observation:
    columns = None if beams is None else complex_normal(rng, ANTENNAS, beams)
    return Observation(complex_normal(rng, patterns, ROWS), columns, noise_power)


def matrix(look: Observation) -> Complex:
    """A of y = A vec(c), vec row by row, y row by row."""
    across = np.eye(ANTENNAS) if look.beams is None else look.beams
    return np.kron(look.patterns, across.T)


def posterior(prior: Complex, look: Observation) -> tuple[Complex, Complex, Complex]:
    """Dense LMMSE: gain matrix C A^H K^-1, posterior covariance, and K."""
    seen = matrix(look)
    innovations = seen @ prior @ seen.conj().T + look.noise_power * np.eye(len(seen))
    gain = prior @ seen.conj().T @ np.linalg.inv(innovations)
    return gain, prior - gain @ seen @ prior, innovations


@pytest.mark.parametrize(("patterns", "beams"), LOOKS)
def test_of_and_spread_are_adjoint_to_the_matrix(patterns: int, beams: int | None, rng: np.random.Generator) -> None:
    look, channel = observation(rng, patterns, beams), complex_normal(rng, ROWS, ANTENNAS)
    seen = look.of(channel)
    np.testing.assert_allclose(seen.ravel(), matrix(look) @ channel.ravel(), atol=1e-12)
    weights = complex_normal(rng, *seen.shape)
    np.testing.assert_allclose(look.spread(weights).ravel(), matrix(look).conj().T @ weights.ravel(), atol=1e-12)


@pytest.mark.parametrize(("patterns", "beams"), LOOKS)
@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("scale", [1.0, 1e-12])
def test_condition_is_the_dense_lmmse(
    patterns: int, beams: int | None, rank: int, scale: float, rng: np.random.Generator
) -> None:
    covariance = random_covariance(rng, ROWS, ANTENNAS, rank, scale)
    look = observation(rng, patterns, beams, noise_power=0.2 * scale)
    innovation = np.sqrt(scale) * complex_normal(rng, patterns, ANTENNAS if beams is None else beams)
    found = condition(covariance, look, innovation)
    gain, _, innovations = posterior(dense(covariance), look)
    expected = gain @ innovation.ravel()
    np.testing.assert_allclose(found.gain.ravel(), expected, atol=1e-9 * np.abs(expected).max())
    seen = matrix(look)
    spread = seen @ dense(covariance) @ seen.conj().T
    np.testing.assert_allclose(found.spread, spread, atol=1e-10 * np.abs(spread).max())
    identity = found.inverse @ innovations
    np.testing.assert_allclose(identity, np.eye(len(seen)), atol=1e-8)
    solved = np.linalg.solve(innovations, innovation.ravel())
    assert found.nis == pytest.approx(float(np.vdot(innovation, solved).real) / innovation.size, rel=1e-8)


def test_one_pattern_is_the_same_by_either_way(rng: np.random.Generator) -> None:
    """The antennas themselves, once as None and once as the beams that they are."""
    covariance, innovation = random_covariance(rng, ROWS, ANTENNAS, 2, 3.0), complex_normal(rng, 1, ANTENNAS)
    direct = observation(rng, 1, None)
    as_beams = Observation(direct.patterns, np.eye(ANTENNAS, dtype=np.complex128), direct.noise_power)
    one, other = condition(covariance, direct, innovation), condition(covariance, as_beams, innovation)
    np.testing.assert_allclose(one.gain, other.gain, atol=1e-12)
    np.testing.assert_allclose(one.spread, other.spread, atol=1e-12)
    np.testing.assert_allclose(one.inverse, other.inverse, atol=1e-11)
    assert one.nis == pytest.approx(other.nis)


@pytest.mark.parametrize("certain", ["nothing", "some rows", "all"])
def test_what_is_certain_is_not_moved(certain: str, rng: np.random.Generator) -> None:
    """Zero variance gains nothing from any look, and breaks none."""
    covariance = random_covariance(rng, ROWS, ANTENNAS, 2)
    diagonal, factor = covariance.diagonal.copy(), covariance.factor.copy()
    rows = {"nothing": [], "some rows": [1, 3], "all": [0, 1, 2, 3]}[certain]
    diagonal[rows], factor[:, rows] = 0.0, 0.0
    for patterns, beams in LOOKS:
        look = observation(rng, patterns, beams)
        innovation = complex_normal(rng, patterns, ANTENNAS if beams is None else beams)
        gain = condition(LowRankDiagonal(diagonal, factor), look, innovation).gain
        assert np.array_equal(gain[rows], np.zeros((len(rows), ANTENNAS)))
        assert np.isfinite(gain).all()


@pytest.mark.parametrize(("patterns", "beams"), LOOKS)
@pytest.mark.parametrize("weight", [0.0, 0.4, 1.0])
def test_the_effective_channel_is_the_dense_posteriors(
    patterns: int, beams: int | None, weight: float, rng: np.random.Generator
) -> None:
    """weight of what the look took away still holds: C - weight (C - posterior)."""
    covariance, look = random_covariance(rng, ROWS, ANTENNAS, 2), observation(rng, patterns, beams)
    prior = dense(covariance)
    _, after, _ = posterior(prior, look)
    innovation = complex_normal(rng, patterns, ANTENNAS if beams is None else beams)
    mean = complex_normal(rng, ROWS, ANTENNAS)
    belief = ChannelBelief(mean, covariance, condition(covariance, look, innovation), weight)
    assert belief.antennas == ANTENNAS
    left = prior - weight * (prior - after)
    for pattern in (np.append(1.0, unit_phases(rng, ROWS - 1)), look.patterns[0]):
        effective, spread = belief.effective(pattern)
        seen = np.kron(pattern[None], np.eye(ANTENNAS))
        np.testing.assert_allclose(effective, pattern @ mean, atol=1e-12)
        np.testing.assert_allclose(spread, seen @ left @ seen.conj().T, atol=1e-10)


@pytest.mark.parametrize(("patterns", "beams"), LOOKS)
def test_what_the_same_look_would_see_again(patterns: int, beams: int | None, rng: np.random.Generator) -> None:
    covariance, look = random_covariance(rng, ROWS, ANTENNAS, 2), observation(rng, patterns, beams)
    _, after, _ = posterior(dense(covariance), look)
    innovation = complex_normal(rng, patterns, ANTENNAS if beams is None else beams)
    belief = ChannelBelief(
        np.zeros((ROWS, ANTENNAS), np.complex128), covariance, condition(covariance, look, innovation)
    )
    seen = matrix(look)
    expected = seen @ after @ seen.conj().T
    np.testing.assert_allclose(belief.seen(look.patterns, look.beams), expected, atol=1e-10)
    again = None if look.beams is None else look.beams.copy()
    np.testing.assert_allclose(belief.seen(look.patterns.copy(), again), expected, atol=1e-10)
    other = complex_normal(rng, ANTENNAS, 2)
    elsewhere = np.kron(look.patterns, other.T)
    np.testing.assert_allclose(belief.seen(look.patterns, other), elsewhere @ after @ elsewhere.conj().T, atol=1e-10)


def test_without_a_look_the_prior_holds(rng: np.random.Generator) -> None:
    covariance, pattern = random_covariance(rng, ROWS, ANTENNAS, 2), complex_normal(rng, ROWS)
    _, spread = ChannelBelief(np.zeros((ROWS, ANTENNAS), np.complex128), covariance).effective(pattern)
    seen = np.kron(pattern[None], np.eye(ANTENNAS))
    np.testing.assert_allclose(spread, seen @ dense(covariance) @ seen.conj().T, atol=1e-12)


@given(st.sampled_from(LOOKS), st.floats(0, 1), st.floats(1e-5, 1e3), st.integers(0, 3), st.integers(0, 2**32 - 1))
@settings(max_examples=80, deadline=None)
def test_covariances_are_positive_and_looks_never_widen_them(
    shape: tuple[int, int | None], weight: float, noise_power: float, rank: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    covariance, look = random_covariance(rng, ROWS, ANTENNAS, rank), observation(rng, *shape, noise_power)
    innovation = complex_normal(rng, shape[0], ANTENNAS if shape[1] is None else shape[1])
    mean = np.zeros((ROWS, ANTENNAS), np.complex128)
    pattern = complex_normal(rng, ROWS)
    _, before = ChannelBelief(mean, covariance).effective(pattern)
    _, after = ChannelBelief(mean, covariance, condition(covariance, look, innovation), weight).effective(pattern)
    size = np.trace(before).real
    assert np.array_equal(after, after.conj().T)
    assert np.linalg.eigvalsh(after).min() > -1e-9 * size
    assert np.linalg.eigvalsh(before - after).min() > -1e-9 * size


def test_the_estimate_errs_as_much_as_it_says(rng: np.random.Generator) -> None:
    """Errors drawn, looked at and estimated: what is left has the posterior covariance, at 5 sigma."""
    covariance, look, draws = random_covariance(rng, ROWS, ANTENNAS, 2), observation(rng, 2, 2), 4000
    root = np.linalg.cholesky(dense(covariance))
    pattern = np.append(1.0, unit_phases(rng, ROWS - 1))
    left = np.empty((draws, ANTENNAS), np.complex128)
    for draw in range(draws):
        error = (root @ complex_normal(rng, ROWS * ANTENNAS)).reshape(ROWS, ANTENNAS)
        noisy = look.of(error) + np.sqrt(look.noise_power) * complex_normal(rng, 2, 2)
        known = condition(covariance, look, noisy)
        left[draw] = pattern @ (error - known.gain)
    _, spread = ChannelBelief(known.gain, covariance, known).effective(pattern)
    whitened = np.linalg.solve(np.linalg.cholesky(spread), left.T)
    sample = whitened @ whitened.conj().T / draws
    assert np.abs(sample - np.eye(ANTENNAS)).max() < 5 / np.sqrt(draws)
