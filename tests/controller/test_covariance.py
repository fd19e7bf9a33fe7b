"""Low rank + diagonal is the dense matrix it stands for: every method against plain linear algebra."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.covariance import Complex, LowRankDiagonal, Real, compressed, condition_on_pattern
from tests.random_channels import complex_normal, dense, random_covariance, unit_phases

SHAPES = [(1, 1, 0), (1, 4, 2), (3, 2, 0), (4, 3, 1), (5, 2, 3), (2, 2, 9)]
"""Rows, antennas, rank."""

SCALES = [1.0, 2.5, 1e-14]


def look(patterns: Complex, beams: Complex | None, antennas: int) -> Complex:
    """The matrix A of y = A vec(e): y[p, b] = sum patterns[p, m] e[m, n] beams[n, b], vec row by row."""
    across = np.eye(antennas) if beams is None else beams
    return np.kron(patterns, across.T)


@pytest.fixture(params=SHAPES, ids=str)
def shape(request: pytest.FixtureRequest) -> tuple[int, int, int]:
    found: tuple[int, int, int] = request.param
    return found


@pytest.mark.parametrize("scale", SCALES)
def test_variances_are_the_diagonal(shape: tuple[int, int, int], scale: float, rng: np.random.Generator) -> None:
    covariance = random_covariance(rng, *shape, scale)
    expected = np.diag(dense(covariance)).real.reshape(shape[:2])
    np.testing.assert_allclose(covariance.variances, expected, rtol=1e-12)
    assert covariance.rank == shape[2]


def test_white_is_a_diagonal(rng: np.random.Generator) -> None:
    variance = rng.uniform(0, 1, (3, 2))
    np.testing.assert_array_equal(dense(LowRankDiagonal.white(variance)), np.diag(variance.ravel()))


@pytest.mark.parametrize("weight", [0.0, 0.3, 7.0])
def test_scaled_and_plus(shape: tuple[int, int, int], weight: float, rng: np.random.Generator) -> None:
    one, other = random_covariance(rng, *shape, 0.7), random_covariance(rng, shape[0], shape[1], 2, 3.0)
    np.testing.assert_allclose(dense(one.scaled(weight)), weight * dense(one), atol=1e-12)
    total = one.scaled(weight).plus(other)
    np.testing.assert_allclose(dense(total), weight * dense(one) + dense(other), atol=1e-12)
    np.testing.assert_allclose(total.variances, np.diag(dense(total)).real.reshape(shape[:2]), rtol=1e-12)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("beams", "other_beams"), [(None, None), (None, 3), (2, None), (2, 3)])
def test_cross_is_the_covariance_of_two_looks(
    shape: tuple[int, int, int], scale: float, beams: int | None, other_beams: int | None, rng: np.random.Generator
) -> None:
    rows, antennas, _ = shape
    covariance = random_covariance(rng, *shape, scale)
    patterns, other_patterns = complex_normal(rng, 2, rows), complex_normal(rng, 3, rows)
    left = None if beams is None else complex_normal(rng, antennas, beams)
    right = None if other_beams is None else complex_normal(rng, antennas, other_beams)
    expected = look(patterns, left, antennas) @ dense(covariance) @ look(other_patterns, right, antennas).conj().T
    size = np.abs(expected).max()
    np.testing.assert_allclose(covariance.cross(patterns, left, other_patterns, right), expected, atol=1e-11 * size)
    itself = look(patterns, left, antennas) @ dense(covariance) @ look(patterns, left, antennas).conj().T
    np.testing.assert_allclose(
        covariance.cross(patterns, left, patterns, left), itself, atol=1e-11 * np.abs(itself).max()
    )


def test_observed_is_what_a_look_sees_of_the_factor(rng: np.random.Generator) -> None:
    covariance = random_covariance(rng, 3, 4, 2, 5.0)
    patterns, beams = complex_normal(rng, 2, 3), complex_normal(rng, 4, 3)
    for chosen in (None, beams):
        seen = covariance.observed(patterns, chosen)
        for k in range(2):
            expected = np.sqrt(5.0) * look(patterns, chosen, 4) @ covariance.factor[k].ravel()
            np.testing.assert_allclose(seen[k].ravel(), expected, atol=1e-12)


def edge_cases(rng: np.random.Generator) -> list[LowRankDiagonal]:
    """Covariances with parts that are certain."""
    some = random_covariance(rng, 3, 2, 2)
    hollow = some.diagonal.copy()
    hollow[1] = 0.0
    return [
        LowRankDiagonal(np.zeros((3, 2)), some.factor),
        LowRankDiagonal(hollow, some.factor),
        LowRankDiagonal.white(np.zeros((3, 2))),
        LowRankDiagonal(some.diagonal, np.zeros((2, 3, 2), np.complex128)),
        some.scaled(0.0),
        some.scaled(1e-300),
    ]


def all_cases(rng: np.random.Generator) -> list[LowRankDiagonal]:
    return [random_covariance(rng, *shape, scale) for shape in SHAPES for scale in SCALES] + edge_cases(rng)


@pytest.mark.parametrize("noise", [1e-6, 0.3, 50.0])
def test_posterior_white_is_the_dense_one(noise: float, rng: np.random.Generator) -> None:
    """C - C (C + s I)^-1 C, which also holds where C cannot be inverted."""
    for covariance in all_cases(rng):
        matrix = dense(covariance)
        noise_power = noise * max(np.abs(matrix).max(), 1e-20)
        whole = np.linalg.inv(matrix / noise_power + np.eye(len(matrix)))
        expected = matrix @ whole  # (C^-1 + I / s)^-1 = s C (C + s I)^-1
        found = covariance.posterior_white(noise_power)
        np.testing.assert_allclose(dense(found), expected, atol=1e-9 * np.abs(matrix).max())
        assert np.all(found.diagonal >= 0)
        assert np.all(found.variances <= covariance.variances * (1 + 1e-9) + 1e-300)


@pytest.mark.parametrize("noise", [1e-6, 0.3, 50.0])
def test_gain_white_is_the_dense_one(noise: float, rng: np.random.Generator) -> None:
    for covariance in all_cases(rng):
        matrix = dense(covariance)
        noise_power = noise * max(np.abs(matrix).max(), 1e-20)
        innovation = np.sqrt(noise_power) * complex_normal(rng, *covariance.diagonal.shape)
        solved = np.linalg.solve(matrix / noise_power + np.eye(len(matrix)), innovation.ravel()) / noise_power
        gain, nis = covariance.gain_white(innovation, noise_power)
        np.testing.assert_allclose(gain.ravel(), matrix @ solved, atol=1e-9 * np.abs(innovation).max())
        assert nis == pytest.approx(float(np.vdot(innovation, solved).real) / innovation.size, rel=1e-9)


def test_the_normalised_innovation_is_one_on_average(rng: np.random.Generator) -> None:
    """Chi-square with 2 R N degrees of freedom a draw, at 5 sigma."""
    covariance, draws = random_covariance(rng, 3, 4, 2), 400
    root = np.linalg.cholesky(dense(covariance) + 0.2 * np.eye(12))
    nis = [covariance.gain_white((root @ complex_normal(rng, 12)).reshape(3, 4), 0.2)[1] for _ in range(draws)]
    assert abs(np.mean(nis) - 1) < 5 / np.sqrt(12 * draws)


@pytest.mark.kernel
@pytest.mark.parametrize("noise", [1e-6, 0.3, 50.0])
def test_one_pattern_is_the_dense_lmmse(noise: float, rng: np.random.Generator) -> None:
    for covariance in all_cases(rng):
        rows, antennas = covariance.diagonal.shape
        pattern = complex_normal(rng, rows)
        matrix, seen = dense(covariance), look(pattern[None], None, antennas)
        spread = seen @ matrix @ seen.conj().T
        noise_power = noise * max(np.abs(spread).max(), 1e-20)
        innovation = np.sqrt(noise_power) * complex_normal(rng, antennas)
        inverse = np.linalg.inv(spread / noise_power + np.eye(antennas)) / noise_power
        gain = np.empty((rows, antennas), np.complex128)
        found = condition_on_pattern(
            pattern, covariance.diagonal, covariance.factor, covariance.scale, noise_power, innovation, gain
        )
        np.testing.assert_allclose(found[0], spread, atol=1e-11 * np.abs(spread).max())
        np.testing.assert_allclose(found[1], inverse, atol=1e-8 * np.abs(inverse).max())
        expected = matrix @ seen.conj().T @ inverse @ innovation
        size = np.abs(matrix).max() * np.abs(seen).sum() * np.abs(inverse @ innovation).max()
        np.testing.assert_allclose(gain.ravel(), expected, atol=1e-9 * size)
        assert found[2] == pytest.approx(float(np.vdot(innovation, inverse @ innovation).real) / antennas, rel=1e-7)


# ---- compression ------------------------------------------------------------------------------------------------


def rest_of(basis: Complex, core: Complex) -> Complex:
    """The matrix basis^T core basis*."""
    flat = basis.reshape(len(basis), -1)
    return np.asarray(flat.T @ core @ flat.conj())


def hermitian(rng: np.random.Generator, size: int, *, positive: bool) -> Complex:
    root = complex_normal(rng, size, size)
    return np.asarray(root @ root.conj().T if positive else (root + root.conj().T) / 2)


def held(factor: Complex) -> Complex:
    flat = factor.reshape(factor.shape[0], factor.shape[1] * factor.shape[2])
    return np.asarray(flat.T @ flat.conj())


def best_of_rank(matrix: Complex, rank: int) -> Complex:
    """The positive semidefinite matrix of this rank nearest to `matrix` (Eckart, Young)."""
    values, vectors = np.linalg.eigh(matrix)
    kept = np.maximum(values[::-1][:rank], 0.0)
    return np.asarray((vectors[:, ::-1][:, :rank] * kept) @ vectors[:, ::-1][:, :rank].conj().T)


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("rank", [0, 1, 3, 20])
@pytest.mark.parametrize("units", [1.0, 1e-7])
def test_the_factor_is_the_best_of_its_rank(positive: bool, rank: int, units: float, rng: np.random.Generator) -> None:
    """Whatever the units, and however unlike the basis vectors are in size."""
    sizes = units * np.array([1.0, 1.0, units, units, 1e-3])[:, None, None]
    basis = complex_normal(rng, 5, 3, 4) * sizes
    weights = 1 / np.abs(sizes[:, 0, 0])
    core = hermitian(rng, 5, positive=positive) * np.outer(weights, weights)
    rest = rest_of(basis, core)
    variances = np.abs(np.diag(rest)).reshape(3, 4) * 4 + 10 * np.abs(rest).max()
    found = compressed(variances, basis, core, rank)
    assert found.rank <= rank
    np.testing.assert_allclose(found.variances, variances, rtol=1e-12)
    assert np.all(found.diagonal >= 0)
    np.testing.assert_allclose(held(found.factor), best_of_rank(rest, rank), atol=1e-8 * np.abs(rest).max())


def test_no_other_factor_comes_nearer(rng: np.random.Generator) -> None:
    basis, core = complex_normal(rng, 5, 3, 4), hermitian(rng, 5, positive=True)
    rest = rest_of(basis, core)
    variances = np.diag(rest).real.reshape(3, 4)
    ours = compressed(variances, basis, core, 2).factor
    error = np.linalg.norm(rest - held(ours))
    for size in (1e-3, 1e-2, 0.1, 1.0):
        for _ in range(50):
            other = ours + size * complex_normal(rng, 2, 3, 4)
            assert np.linalg.norm(rest - held(other)) >= error * (1 - 1e-12)


def test_a_rank_that_suffices_loses_nothing(rng: np.random.Generator) -> None:
    covariance = random_covariance(rng, 3, 4, 3)
    found = compressed(covariance.variances, covariance.factor, np.eye(3, dtype=np.complex128), 3)
    np.testing.assert_allclose(dense(found), dense(covariance), atol=1e-10)


@pytest.mark.parametrize("positive", [True, False])
def test_variances_are_kept_where_the_factor_would_hold_more(positive: bool, rng: np.random.Generator) -> None:
    """Variances that the rest alone exceeds, zero among them: the factor gives way, the diagonal stays positive."""
    basis, core = complex_normal(rng, 4, 3, 2), hermitian(rng, 4, positive=positive)
    variances = 0.3 * np.abs(np.diag(rest_of(basis, core))).reshape(3, 2)
    variances[0, 0] = 0.0
    found = compressed(variances, basis, core, 3)
    np.testing.assert_allclose(found.variances, variances, rtol=1e-12, atol=1e-300)
    assert np.all(found.diagonal >= 0)
    assert np.array_equal(found.factor[:, 0, 0], np.zeros(found.rank))


def nothing(*shape: int) -> Complex:
    return np.zeros(shape, np.complex128)


@pytest.mark.parametrize(
    ("basis", "core"),
    [
        (nothing(0, 3, 2), nothing(0, 0)),
        (nothing(2, 3, 2), np.eye(2, dtype=np.complex128)),
        (np.ones((2, 3, 2), np.complex128), nothing(2, 2)),
        (np.ones((2, 3, 2), np.complex128), -np.eye(2, dtype=np.complex128)),
    ],
)
def test_nothing_to_hold_leaves_a_diagonal(basis: Complex, core: Complex, rng: np.random.Generator) -> None:
    variances = rng.uniform(0, 1, (3, 2))
    found = compressed(variances, basis, core, 4)
    assert np.linalg.norm(found.factor) < 1e-12
    np.testing.assert_allclose(found.variances, variances, rtol=1e-12)


@given(st.floats(1e-12, 1e12), st.integers(0, 4), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_compression_knows_no_units(units: float, rank: int, seed: int) -> None:
    """Channels in other units give the same covariance in those units, also where vectors are squares of channels."""
    rng = np.random.default_rng(seed)
    basis, core = complex_normal(rng, 4, 2, 3), hermitian(rng, 4, positive=False)
    variances: Real = np.abs(np.diag(rest_of(basis, core))).reshape(2, 3) + 1.0
    powers = units ** np.array([1.0, 2.0, 1.0, 2.0])
    scaled = compressed(
        variances * units**2, basis * powers[:, None, None], core * units**2 / np.outer(powers, powers), rank
    )
    plain = compressed(variances, basis, core, rank)
    np.testing.assert_allclose(dense(scaled) / units**2, dense(plain), atol=1e-7)


@pytest.mark.kernel
def test_one_pattern_leaves_its_inputs_alone(rng: np.random.Generator) -> None:
    covariance, pattern = random_covariance(rng, 3, 4, 2), unit_phases(rng, 3)
    innovation, gain = complex_normal(rng, 4), np.empty((3, 4), np.complex128)
    before = [array.copy() for array in (pattern, covariance.diagonal, covariance.factor, innovation)]
    condition_on_pattern(pattern, covariance.diagonal, covariance.factor, 1.0, 0.1, innovation, gain)
    for array, copy in zip((pattern, covariance.diagonal, covariance.factor, innovation), before, strict=True):
        np.testing.assert_array_equal(array, copy)
