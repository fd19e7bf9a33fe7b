"""Error statistics are learnt by paper P1's recursion where channels are seen whole, by EM where in part; what was
learnt is tested, and says itself whether to be believed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from controller.belief import Observation, condition
from controller.covariance import Complex, LowRankDiagonal
from controller.error_statistics import (
    ErrorStatistics,
    LearningRule,
    freshness,
    judge,
    learn_coherence,
    learn_from_full,
    learn_from_partial,
)
from tests.random_channels import complex_normal, dense, random_covariance, unit_phases

ROWS, ANTENNAS = 3, 2
SIZE = ROWS * ANTENNAS
WHOLE = LearningRule(prior_weight=0.0, memory=1e9, rank=SIZE)
"""Eq. 9 to the letter: no prior, nothing forgotten, every rank kept."""


def begun(variance: float = 1.0, rows: int = ROWS, antennas: int = ANTENNAS) -> ErrorStatistics:
    zero = np.zeros((rows, antennas), np.complex128)
    return ErrorStatistics.begin(zero, LowRankDiagonal.white(np.full((rows, antennas), variance)))


def drawn(root: Complex, rng: np.random.Generator) -> Complex:
    """An error [R, N] of covariance root root^H."""
    return (root @ complex_normal(rng, len(root))).reshape(-1, ANTENNAS)


# ---- whole channels: P1 eq. 9 -----------------------------------------------------------------------------------


@pytest.mark.parametrize("units", [1.0, 1e-7])
@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_whole_channels_are_learnt_by_eq_9(units: float, scale: float, rng: np.random.Generator) -> None:
    """Sigma(n) = (1 - 1/n) Sigma(n-1) + 1/n vec(e) vec(e)^H, written plainly; the code keeps it about the mean."""
    errors = units * (complex_normal(rng, 25, ROWS, ANTENNAS) + complex_normal(rng, ROWS, ANTENNAS))
    statistics = replace(
        begun(units**2), covariance=LowRankDiagonal.white(np.full((ROWS, ANTENNAS), units**2 / scale)).scaled(scale)
    )
    sigma, mean = np.zeros((SIZE, SIZE), np.complex128), np.zeros(SIZE, np.complex128)
    for n, error in enumerate(errors, 1):
        statistics = learn_from_full(statistics, WHOLE, error - statistics.mean, 0.0)
        e = error.ravel()
        sigma = (1 - 1 / n) * sigma + 1 / n * np.outer(e, e.conj())
        mean = (1 - 1 / n) * mean + 1 / n * e
        about_mean = sigma - np.outer(mean, mean.conj())
        np.testing.assert_allclose(statistics.mean.ravel(), mean, atol=1e-12 * units)
        np.testing.assert_allclose(dense(statistics.moments.scaled(scale)), about_mean, atol=1e-10 * units**2)
        assert statistics.taught == n
    # What designs are made with differs only in that no variance is ever taken for certain.
    learnt = dense(statistics.covariance)
    floor = np.diag(learnt - about_mean).real
    np.testing.assert_allclose(learnt - np.diag(floor), about_mean, atol=1e-10 * units**2)
    assert np.all(floor <= 1.01e-4 * np.diag(about_mean).real)
    assert np.all(floor > -1e-12 * units**2)


def test_a_prior_counts_for_so_many_observations(rng: np.random.Generator) -> None:
    """With weight n0 the first covariance is as good as n0 errors of that covariance about a mean of zero."""
    rule, statistics = replace(WHOLE, prior_weight=5.0), begun(2.0)
    sigma, mean, seen = 2.0 * np.eye(SIZE, dtype=np.complex128), np.zeros(SIZE, np.complex128), 5.0
    for error in complex_normal(rng, 12, ROWS, ANTENNAS) + 0.5:
        statistics = learn_from_full(statistics, rule, error - statistics.mean, 0.0)
        e, seen = error.ravel(), seen + 1
        second = sigma + np.outer(mean, mean.conj())
        second = (1 - 1 / seen) * second + 1 / seen * np.outer(e, e.conj())
        mean = (1 - 1 / seen) * mean + 1 / seen * e
        sigma = second - np.outer(mean, mean.conj())
    np.testing.assert_allclose(dense(statistics.moments), sigma, atol=1e-10)


def test_what_is_old_is_forgotten(rng: np.random.Generator) -> None:
    """Beyond the memory every observation has the weight 1 / (memory + 1): exponential forgetting."""
    rule, statistics = replace(WHOLE, memory=10.0), begun()
    weights: list[float] = []
    errors = complex_normal(rng, 40, ROWS, ANTENNAS)
    for n, error in enumerate(errors, 1):
        w = 1 / min(n, 11)
        weights = [(1 - w) * weight for weight in weights] + [w]
        statistics = learn_from_full(statistics, rule, error - statistics.mean, 0.0)
    flat = errors.reshape(40, SIZE)
    mean = np.array(weights) @ flat
    sigma = sum(weight * np.outer(e, e.conj()) for weight, e in zip(weights, flat, strict=True))
    np.testing.assert_allclose(statistics.mean.ravel(), mean, atol=1e-12)
    np.testing.assert_allclose(dense(statistics.moments), sigma - np.outer(mean, mean.conj()), atol=1e-10)
    assert statistics.taught == 10.0


def test_half_fresh_observations_count_half(rng: np.random.Generator) -> None:
    statistics, rule = begun(), replace(WHOLE, prior_weight=4.0)
    error = complex_normal(rng, ROWS, ANTENNAS)
    learnt = learn_from_full(statistics, rule, error, 0.0, fresh=0.5)
    np.testing.assert_allclose(learnt.mean, error * 0.5 / 4.5)
    assert learnt.taught == 0.5
    nothing = learn_from_full(learnt, rule, error, 0.0, fresh=0.0)
    np.testing.assert_allclose(dense(nothing.moments), dense(learnt.moments), atol=1e-12)
    np.testing.assert_array_equal(nothing.mean, learnt.mean)


@pytest.mark.parametrize("scale", [1.0, 9.0])
def test_measurement_noise_is_taken_off_again(scale: float, rng: np.random.Generator) -> None:
    """Errors of variance 1 seen through noise of variance 2: the covariance finds the 1, at 5 sigma."""
    rule, statistics, count = replace(WHOLE, rank=0), begun(), 3000
    statistics = replace(statistics, covariance=statistics.covariance.scaled(scale))
    for _ in range(count):
        seen = complex_normal(rng, ROWS, ANTENNAS) + np.sqrt(2.0) * complex_normal(rng, ROWS, ANTENNAS)
        statistics = learn_from_full(statistics, rule, seen - statistics.mean, 2.0)
    assert abs(np.mean(statistics.covariance.variances) - 1.0) < 5 * 3.0 / np.sqrt(count * SIZE)
    assert scale * statistics.noise_power == pytest.approx(2.0, rel=1e-2)


def test_noise_never_eats_a_variance_whole(rng: np.random.Generator) -> None:
    statistics = begun()
    for _ in range(20):
        statistics = learn_from_full(statistics, LearningRule(), 1e-3 * complex_normal(rng, ROWS, ANTENNAS), 100.0)
        assert statistics.covariance.variances.min() > 0


def test_a_short_factor_keeps_every_variance(rng: np.random.Generator) -> None:
    """With less rank than the errors have, the off-diagonal part is cut, the variances stay those of eq. 9."""
    short, long = begun(), begun()
    for error in complex_normal(rng, 30, ROWS, ANTENNAS):
        short = learn_from_full(short, replace(WHOLE, rank=2), error - short.mean, 0.0)
        long = learn_from_full(long, WHOLE, error - long.mean, 0.0)
    assert short.covariance.rank == 2
    np.testing.assert_allclose(short.moments.variances, long.moments.variances, rtol=1e-9)


# ---- parts of channels: EM --------------------------------------------------------------------------------------


def matrix(look: Observation) -> Complex:
    across = np.eye(ANTENNAS) if look.beams is None else look.beams
    return np.kron(look.patterns, across.T)


def log_likelihood(statistics: ErrorStatistics, looks: list[tuple[Observation, Complex]]) -> float:
    """Mean log density of looks under what was learnt, constants left out."""
    covariance, mean, total = dense(statistics.covariance), statistics.mean.ravel(), 0.0
    for look, seen in looks:
        whole = matrix(look)
        spread = whole @ covariance @ whole.conj().T + look.noise_power * np.eye(len(whole))
        rest = seen.ravel() - whole @ mean
        total -= float(np.linalg.slogdet(spread)[1] + np.vdot(rest, np.linalg.solve(spread, rest)).real)
    return total / len(looks)


def em_step(covariance: Complex, look: Observation, innovation: Complex, w: float) -> Complex:
    """(1 - w) Sigma + w E[(e - m)(e - m)^H | y] about the moved mean m = w g, dense."""
    whole = matrix(look)
    spread = whole @ covariance @ whole.conj().T + look.noise_power * np.eye(len(whole))
    gain = covariance @ whole.conj().T @ np.linalg.inv(spread)
    g = gain @ innovation.ravel()
    second = (1 - w) * covariance + w * (covariance - gain @ whole @ covariance + np.outer(g, g.conj()))
    return np.asarray(second - w**2 * np.outer(g, g.conj()))


@pytest.mark.kernel
@pytest.mark.parametrize("units", [1.0, 1e-5, 1e-9])
@pytest.mark.parametrize(("patterns", "beams"), [(1, None), (2, None), (2, 1), (3, 3)])
def test_a_step_of_em_is_the_dense_one(
    patterns: int, beams: int | None, units: float, rng: np.random.Generator
) -> None:
    """Off the diagonal as far as it is positive, which is all that a factor can hold; variances exactly."""
    prior = random_covariance(rng, ROWS, ANTENNAS, 3)
    covariance = LowRankDiagonal(prior.diagonal * units**2, prior.factor * units)
    columns = None if beams is None else complex_normal(rng, ANTENNAS, beams)
    look = Observation(complex_normal(rng, patterns, ROWS), columns, 0.1 * units**2)
    innovation = units * complex_normal(rng, patterns, ANTENNAS if beams is None else beams)
    rule = LearningRule(prior_weight=3.0, rank=SIZE)
    known = condition(covariance, look, innovation)
    zero = np.zeros((ROWS, ANTENNAS), np.complex128)
    learnt = learn_from_partial(ErrorStatistics.begin(zero, covariance), rule, known, innovation)
    w = (3.0 + 0.0 + 1.0) ** -0.7
    expected = em_step(dense(covariance), look, innovation, w) / units**2
    found = dense(learnt.covariance) / units**2
    np.testing.assert_allclose(np.diag(found), np.diag(expected), rtol=1e-9)
    values, vectors = np.linalg.eigh(expected - np.diag(prior.diagonal.ravel()))
    positive = (vectors * np.maximum(values, 0.0)) @ vectors.conj().T
    off = ~np.eye(SIZE, dtype=bool)
    if np.all(np.diag(positive).real <= np.diag(expected).real):
        np.testing.assert_allclose(found[off], positive[off], atol=1e-9)
    assert np.linalg.norm(found - expected) <= np.linalg.norm(dense(prior) - expected)
    np.testing.assert_allclose(learnt.mean, w * known.gain)
    assert learnt.taught == 1.0


Draw = Callable[[np.random.Generator], Observation]


@pytest.mark.kernel
@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: Observation(complex_normal(rng, 2, ROWS), None, 0.05),
        lambda rng: Observation(complex_normal(rng, 2, ROWS), complex_normal(rng, ANTENNAS, 1), 0.05),
    ],
    ids=["patterns", "patterns and a beam"],
)
def test_em_converges_to_the_true_statistics(draw: Draw, rng: np.random.Generator) -> None:
    """From random looks at parts; likelihood of fresh looks rises all the way to that of the truth.

    1500 looks at a third to two thirds of 6 entries: relative error of a sample covariance about
    6 / sqrt(1500 / 2) = 0.22, about 0.3 with on-line EM's slower averaging.
    """
    true, mean = random_covariance(rng, ROWS, ANTENNAS, 2), complex_normal(rng, ROWS, ANTENNAS)
    root = np.linalg.cholesky(dense(true))

    def looked() -> tuple[Observation, Complex]:
        look = draw(rng)
        seen = look.of(mean + drawn(root, rng))
        return look, seen + np.sqrt(look.noise_power) * complex_normal(rng, *seen.shape)

    held_out = [looked() for _ in range(200)]
    rule, statistics = LearningRule(rank=SIZE, memory=1e9), begun(float(np.mean(true.variances)))
    likelihood = [log_likelihood(statistics, held_out)]
    for count in range(1, 1501):
        look, seen = looked()
        innovation = seen - look.of(statistics.mean)
        known = condition(statistics.covariance, look, innovation)
        statistics = learn_from_partial(statistics, rule, known, innovation)
        if count in (50, 250, 1500):
            likelihood.append(log_likelihood(statistics, held_out))
    assert np.all(np.diff(likelihood) > 0)
    truth = log_likelihood(replace(statistics, mean=mean, covariance=true), held_out)
    assert truth - likelihood[-1] < 0.1 * (truth - likelihood[0])
    error = np.linalg.norm(dense(statistics.covariance) - dense(true)) / np.linalg.norm(dense(true))
    assert error < 0.3
    assert np.linalg.norm(statistics.mean - mean) < 0.3 * np.linalg.norm(mean)


@pytest.mark.kernel
def test_em_at_the_truth_stays_there(rng: np.random.Generator) -> None:
    """The expected step from the true covariance is none, at 5 sigma of its average over many looks."""
    true = random_covariance(rng, ROWS, ANTENNAS, 2)
    root, draws = np.linalg.cholesky(dense(true)), 3000
    start = ErrorStatistics.begin(np.zeros((ROWS, ANTENNAS), np.complex128), true)
    steps = np.empty((draws, SIZE))
    for draw in range(draws):
        look = Observation(complex_normal(rng, 2, ROWS), None, 0.05)
        innovation = look.of(drawn(root, rng)) + np.sqrt(0.05) * complex_normal(rng, 2, ANTENNAS)
        rule = LearningRule(prior_weight=1e6, rank=SIZE)
        known = condition(true, look, innovation)
        learnt = learn_from_partial(start, rule, known, innovation)
        steps[draw] = (learnt.covariance.variances - true.variances).ravel()
    assert np.all(np.abs(steps.mean(axis=0)) < 5 * steps.std(axis=0) / np.sqrt(draws))


# ---- looks too narrow to teach more than the scale --------------------------------------------------------------

MANY_ROWS = 33


def scale_learnt(
    start: float, snr_db: float, looks: int, rng: np.random.Generator, rule: LearningRule | None = None
) -> list[float]:
    """The scale after each of many looks through one random pattern at errors whose scale is 1."""
    rule = rule or LearningRule()
    true = random_covariance(rng, MANY_ROWS, ANTENNAS, 2)
    root = np.linalg.cholesky(dense(true))
    noise_power = float(np.mean(true.variances)) * MANY_ROWS / 10 ** (snr_db / 10)
    statistics = ErrorStatistics.begin(np.zeros((MANY_ROWS, ANTENNAS), np.complex128), true.scaled(start))
    scales = []
    for _ in range(looks):
        look = Observation(np.append(1.0, unit_phases(rng, MANY_ROWS - 1))[None], None, noise_power)
        seen = look.of(drawn(root, rng)) + np.sqrt(noise_power) * complex_normal(rng, 1, ANTENNAS)
        known = condition(statistics.covariance, look, seen)
        statistics = judge(learn_from_partial(statistics, rule, known, seen), rule, known.nis)
        scales.append(statistics.covariance.scale)
    return scales


@pytest.mark.kernel
@pytest.mark.parametrize("start", [0.1, 1.0, 10.0])
def test_narrow_looks_teach_the_scale(start: float, rng: np.random.Generator) -> None:
    scales = scale_learnt(start, 20.0, 600, rng)
    assert abs(np.mean(np.log(scales[-200:]))) < 0.2


@pytest.mark.kernel
@pytest.mark.parametrize("prior_weight", [0.0, 4.0])
@pytest.mark.parametrize("snr_db", [-20.0, -40.0])
def test_looks_that_show_only_noise_leave_the_scale(
    snr_db: float, prior_weight: float, rng: np.random.Generator
) -> None:
    """A score that is nearly all noise is skew: taken at face value it would make the covariance vanish."""
    scales = scale_learnt(1.0, snr_db, 1000, rng, LearningRule(prior_weight=prior_weight))
    assert np.abs(np.log(scales)).max() < 0.7


@pytest.mark.kernel
def test_narrow_looks_change_nothing_but_the_scale(rng: np.random.Generator) -> None:
    covariance = random_covariance(rng, MANY_ROWS, ANTENNAS, 2)
    start = ErrorStatistics.begin(complex_normal(rng, MANY_ROWS, ANTENNAS), covariance)
    look, seen = Observation(complex_normal(rng, 1, MANY_ROWS), None, 0.1), 9.0 * complex_normal(rng, 1, ANTENNAS)
    learnt = learn_from_partial(start, LearningRule(), condition(covariance, look, seen), seen)
    assert learnt.covariance.scale != covariance.scale
    assert learnt.covariance.factor is covariance.factor
    assert learnt.taught == start.taught
    np.testing.assert_array_equal(learnt.mean, start.mean)
    stale = learn_from_partial(start, LearningRule(), condition(covariance, look, seen), seen, fresh=0.0)
    assert stale.covariance.scale == covariance.scale


# ---- coherence --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coherence", [0.3, 0.8, 0.95, 0.99])
@pytest.mark.parametrize("start", [0.1, 5.0])
def test_coherence_is_found_on_an_ar1_track(coherence: float, start: float, rng: np.random.Generator) -> None:
    """Whole looks through noise at e(t+1) = a e(t) + sqrt(1 - a^2) w; forecasts by plain Bayes, entry by entry."""
    entries, noise_power, variance = 16, 0.05, 1.0
    statistics, error = replace(begun(), horizon=start), complex_normal(rng, entries)
    share, found = variance / (variance + noise_power), []
    gain, left = np.zeros(entries, np.complex128), variance
    for step in range(2500):
        believed = statistics.coherence
        seen = error + np.sqrt(noise_power) * complex_normal(rng, entries)
        if step:
            expected = believed**2 * left + (1 - believed**2) * variance + noise_power
            nis = float(np.mean(np.abs(seen - believed * gain) ** 2)) / expected
            statistics = learn_coherence(statistics, nis, share)
        gain, left = share * seen, variance * noise_power / (variance + noise_power)
        error = coherence * error + np.sqrt(1 - coherence**2) * complex_normal(rng, entries)
        found.append(statistics.coherence)
    settled = np.array(found[-1000:])
    # What an error loses of its power per step, 1 - a^2, within a quarter of itself or a tenth of all.
    assert np.mean(1 - settled**2) == pytest.approx(1 - coherence**2, rel=0.25, abs=0.02)


def test_coherence_stays_a_correlation() -> None:
    for nis, share in ((1e9, 1.0), (0.0, 1.0), (1.0, 0.0), (50.0, 0.3)):
        statistics = begun()
        for _ in range(200):
            statistics = learn_coherence(statistics, nis, share)
            assert 0.0 <= statistics.coherence < 1.0
    assert learn_coherence(begun(), 3.0, 0.0).horizon == begun().horizon


@pytest.mark.parametrize("coherence", [0.0, 0.5, 0.9, 0.99])
def test_freshness_is_the_worth_of_one_more_value(coherence: float) -> None:
    """n squares of an AR(1) sequence have the variance sum_ij a^(2 |i - j|) / n^2 of their mean, n fresh ones 1 / n."""
    n = 4000
    lags = np.arange(1, n)
    variance = (n + 2 * np.sum((n - lags) * coherence ** (2.0 * lags))) / n**2
    assert freshness(coherence) == pytest.approx(1 / (n * variance), rel=0.03)
    assert 0 < freshness(coherence) <= 1


# ---- validity ---------------------------------------------------------------------------------------------------


def judged(statistics: ErrorStatistics, rule: LearningRule, level: float, count: int) -> ErrorStatistics:
    for _ in range(count):
        statistics = judge(statistics, rule, level)
    return statistics


def test_validity_goes_from_learning_to_converged_to_drifted_and_back() -> None:
    rule = LearningRule(enough=30, window=30, coverage=3.0)
    statistics = begun()
    assert statistics.validity == "learning"
    statistics = judged(statistics, rule, 1.0, 29)
    assert statistics.validity == "learning"
    statistics = judged(statistics, rule, 1.0, 1)
    assert statistics.validity == "converged"
    drifted = judged(statistics, rule, 10.0, 30)
    assert drifted.validity == "drifted"
    assert judged(drifted, rule, 1.0, 200).validity == "converged"
    assert judged(statistics, rule, 0.01, 100).validity == "drifted"  # far too cautious is wrong as well


@pytest.mark.parametrize("level", [np.nan, np.inf])
def test_what_is_no_number_is_not_covered(level: float) -> None:
    assert judged(begun(), LearningRule(enough=5), level, 10).validity == "drifted"


def test_validity_follows_a_change_of_the_world(rng: np.random.Generator) -> None:
    """Errors learnt, then twenty times stronger; a drifted zone unlearns within as many looks as it once needed."""
    rule = LearningRule(memory=1000.0, enough=30.0, rank=2)
    statistics, seen = begun(), []
    for step in range(900):
        size = 1.0 if step < 500 else 20.0
        innovation = np.sqrt(size) * complex_normal(rng, ROWS, ANTENNAS) - statistics.mean
        _, nis = statistics.covariance.gain_white(innovation, 1e-3)
        statistics = judge(learn_from_full(statistics, rule, innovation, 1e-3), rule, nis)
        seen.append(statistics.validity)
    assert set(seen[:29]) == {"learning"}
    assert set(seen[30:500]) == {"converged"}
    first_drift = seen.index("drifted", 500)
    assert first_drift < 530
    assert seen[-1] == "converged"
    assert np.mean(statistics.covariance.variances) == pytest.approx(20.0, rel=0.35)


def test_half_fresh_looks_judge_half_as_fast() -> None:
    rule = LearningRule(enough=30)
    statistics = begun()
    for _ in range(59):
        statistics = judge(statistics, rule, 1.0, fresh=0.5)
    assert statistics.validity == "learning"
    assert judge(statistics, rule, 1.0, fresh=0.5).validity == "converged"
