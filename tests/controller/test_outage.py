"""The outage probability is exact: against closed forms, against sampling, and in every degenerate case."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from controller.covariance import Complex
from controller.outage import outage_probability, probability_below_zero
from tests.random_channels import complex_normal

pytestmark = pytest.mark.kernel

DRAWS = 10**6


def random_psd(rng: np.random.Generator, antennas: int, rank: int, size: float) -> Complex:
    root = size * complex_normal(rng, antennas, rank)
    return np.asarray(root @ root.conj().T)


def white_draws(antennas: int) -> Complex:
    """The same standard normal channels for every problem of this many antennas."""
    return complex_normal(np.random.default_rng(antennas), DRAWS, antennas)


@pytest.fixture(scope="module")
def draws() -> dict[int, Complex]:
    return {antennas: white_draws(antennas) for antennas in (1, 3, 5)}


def sampled(
    white: Complex, mean: Complex, covariance: Complex, precoder: Complex, user: int, target: float, noise: float
) -> float:
    """Share of channels drawn from the belief whose SINR is below the target."""
    values, vectors = np.linalg.eigh(covariance)
    # F^T h^T: what is received of every beam is Gaussian as well, and smaller than the channel.
    through = (vectors * np.sqrt(np.maximum(values, 0.0))).T @ precoder
    power = np.abs(mean @ precoder + white @ through) ** 2
    wanted = power[:, user]
    return float(np.mean(wanted < target * (power.sum(axis=1) - wanted + noise)))


def agrees(exact: float, share: float) -> bool:
    """A 5 sigma z-test; for shares near 0 and 1 with the Poisson error of a few events."""
    sigma = math.sqrt(max(exact * (1 - exact), 1 / DRAWS) / DRAWS)
    return abs(exact - share) < 5 * sigma


PROBLEMS = [
    (antennas, users, rank, size)
    for antennas, users in ((1, 1), (3, 1), (3, 2), (5, 4), (3, 4))
    for rank in (antennas, 1)
    for size in (0.03, 0.3, 1.0, 3.0)
]


@pytest.mark.parametrize(("antennas", "users", "rank", "size"), PROBLEMS)
def test_outage_is_what_sampling_finds(
    antennas: int, users: int, rank: int, size: float, draws: dict[int, Complex]
) -> None:
    """Random beliefs and precoders, targets from easy to hopeless."""
    rng = np.random.default_rng([antennas, users, rank, int(100 * size)])
    mean, covariance = complex_normal(rng, antennas), random_psd(rng, antennas, rank, size)
    precoder, user, noise = (
        complex_normal(rng, antennas, users),
        int(rng.integers(users)),
        float(rng.uniform(0.05, 1.0)),
    )
    power = np.abs(mean @ precoder) ** 2
    typical = power[user] / (power.sum() - power[user] + noise)
    for target in typical * np.array([0.3, 0.95, 2.0]):
        exact = outage_probability(mean, covariance, precoder, user, float(target), noise)
        assert agrees(exact, sampled(draws[antennas], mean, covariance, precoder, user, float(target), noise))


def test_zero_means_are_what_sampling_finds(draws: dict[int, Complex]) -> None:
    rng = np.random.default_rng(9)
    covariance, precoder = random_psd(rng, 3, 3, 1.0), complex_normal(rng, 3, 2)
    for target in (0.01, 0.5, 3.0):
        exact = outage_probability(np.zeros(3, np.complex128), covariance, precoder, 1, target, 0.3)
        assert agrees(exact, sampled(draws[3], np.zeros(3, np.complex128), covariance, precoder, 1, target, 0.3))


# ---- closed forms -----------------------------------------------------------------------------------------------


@given(
    st.floats(1e-3, 5.0),
    st.floats(1e-3, 3.0),
    st.floats(1e-2, 20.0),
    st.floats(1e-2, 3.0),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=150, deadline=None)
def test_a_single_user_is_a_noncentral_chi_square(
    size: float, deviation: float, target: float, noise: float, seed: int
) -> None:
    """|z|^2 with z ~ CN(mu, v): 2 |z|^2 / v is chi-square with 2 degrees of freedom, non-central by 2 |mu|^2 / v."""
    rng = np.random.default_rng(seed)
    mean, precoder = size * complex_normal(rng, 3), complex_normal(rng, 3, 1)
    covariance = random_psd(rng, 3, 2, deviation)
    variance = float((precoder.T @ covariance @ precoder.conj())[0, 0].real)
    shift = 2 * abs(complex((mean @ precoder)[0])) ** 2 / variance
    expected = float(stats.ncx2.cdf(2 * target * noise / variance, 2, shift)) if shift < 1e4 else None
    found = outage_probability(mean, covariance, precoder, 0, target, noise)
    assert 0 <= found <= 1
    if expected is not None:
        assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("limit", [0.2, 1.0, 3.0, 8.0])
@pytest.mark.parametrize("interference", [0.0, 0.4, 2.0])
def test_a_certain_signal_in_uncertain_interference(limit: float, interference: float) -> None:
    """A singular covariance: the wanted beam is known for sure, two others are chi-square with 4 degrees."""
    mean = np.array([2.0, interference, 0.1j])
    covariance = np.diag([0.0, 0.5, 0.5]).astype(np.complex128)
    target = 4.0 / (limit + 0.1)
    shift = 2 * (interference**2 + 0.01) / 0.5
    expected = stats.ncx2.sf(2 * limit / 0.5, 4, shift)
    found = outage_probability(mean, covariance, np.eye(3, dtype=np.complex128), 0, target, 0.1)
    assert found == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("limit", [0.05, 0.5, 3.0])
def test_an_uncertain_signal_in_certain_interference(limit: float) -> None:
    mean = np.array([1.0, np.sqrt(limit)], np.complex128)
    covariance = np.diag([0.7, 0.0]).astype(np.complex128)
    expected = stats.ncx2.cdf(2 * 2.0 * (limit + 0.1) / 0.7, 2, 2 / 0.7)
    found = outage_probability(mean, covariance, np.eye(2, dtype=np.complex128), 0, 2.0, 0.1)
    assert found == pytest.approx(float(expected), abs=1e-6)


def test_one_error_common_to_all_beams(draws: dict[int, Complex]) -> None:
    """Rank one with more beams than that: the noise level is not all that is left far out."""
    rng = np.random.default_rng(4)
    for _ in range(12):
        mean, covariance = complex_normal(rng, 3), random_psd(rng, 3, 1, 1.0)
        precoder = complex_normal(rng, 3, 4)
        target = float(rng.uniform(0.01, 0.5))
        exact = outage_probability(mean, covariance, precoder, 2, target, 0.1)
        assert agrees(exact, sampled(draws[3], mean, covariance, precoder, 2, target, 0.1))


@given(st.lists(st.floats(0.05, 3.0), min_size=1, max_size=4, unique=True), st.floats(0.05, 3.0), st.floats(0.01, 5.0))
@settings(max_examples=100, deadline=None)
def test_zero_means_have_a_closed_form(losses: list[float], gain: float, threshold: float) -> None:
    """P(g E_0 - sum_i l_i E_i < t), E exponential, t > 0: 1 - exp(-t / g) prod_i g / (g + l_i)."""
    strengths = np.array([gain, *(-loss for loss in losses)])
    expected = 1 - math.exp(-threshold / gain) * math.prod(gain / (gain + loss) for loss in losses)
    found = probability_below_zero(strengths, np.zeros(len(strengths)), -threshold)
    assert found == pytest.approx(expected, abs=1e-7)


@given(st.floats(-6.0, 6.0), st.floats(1e-3, 10.0))
@settings(max_examples=100, deadline=None)
def test_a_linear_form_is_a_normal_distribution(offset: float, slope: float) -> None:
    """No squares at all: q ~ N(offset, 2 |b|^2)."""
    expected = stats.norm.cdf(-offset / math.sqrt(2 * slope))
    assert probability_below_zero(np.zeros(1), np.array([slope]), offset) == pytest.approx(float(expected), abs=1e-7)


# ---- certainty, bounds, order -----------------------------------------------------------------------------------


def test_what_is_certain_is_met_or_not(rng: np.random.Generator) -> None:
    mean, precoder = complex_normal(rng, 4), complex_normal(rng, 4, 3)
    power = np.abs(mean @ precoder) ** 2
    for user in range(3):
        reached = power[user] / (power.sum() - power[user] + 0.2)
        for variance in (0.0, 1e-30):
            covariance = variance * np.eye(4, dtype=np.complex128)
            assert outage_probability(mean, covariance, precoder, user, 0.999 * reached, 0.2) == 0.0
            assert outage_probability(mean, covariance, precoder, user, 1.001 * reached, 0.2) == 1.0


def test_who_is_sent_nothing_is_out(rng: np.random.Generator) -> None:
    precoder = complex_normal(rng, 3, 2)
    precoder[:, 1] = 0.0
    mean, covariance = complex_normal(rng, 3), random_psd(rng, 3, 3, 1.0)
    assert outage_probability(mean, covariance, precoder, 1, 1e-3, 0.1) == pytest.approx(1.0)
    assert outage_probability(mean, covariance, np.zeros((3, 2), np.complex128), 0, 1e-3, 0.1) == 1.0
    assert outage_probability(mean, covariance, precoder, 0, 0.0, 0.1) == 0.0


CASES = st.tuples(
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 4),
    st.floats(-8, 4),
    st.floats(-6, 3),
    st.integers(0, 2**32 - 1),
)


@given(CASES)
@settings(max_examples=150, deadline=None)
def test_outage_is_a_probability_and_rises_with_the_target(case: tuple[int, int, int, float, float, int]) -> None:
    """Beliefs from sure to ignorant and noise over nine orders of magnitude."""
    antennas, users, rank, size_db, noise_db, seed = case
    rng = np.random.default_rng(seed)
    mean, precoder = complex_normal(rng, antennas), complex_normal(rng, antennas, users)
    covariance = random_psd(rng, antennas, min(rank, antennas), 10 ** (size_db / 2))
    found = [
        outage_probability(mean, covariance, precoder, 0, float(target), 10**noise_db)
        for target in np.geomspace(1e-4, 1e4, 12)
    ]
    assert all(0 <= probability <= 1 for probability in found)
    assert np.all(np.diff(found) > -1e-6)


@given(st.floats(1e-12, 1e12), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_outage_knows_no_units(units: float, seed: int) -> None:
    """Power and noise in other units: path gains are 1e-10 and noise 1e-13 W where this is used."""
    rng = np.random.default_rng(seed)
    mean, covariance = complex_normal(rng, 3), random_psd(rng, 3, 2, 0.5)
    precoder = complex_normal(rng, 3, 2)
    plain = outage_probability(mean, covariance, precoder, 0, 0.7, 0.2)
    scaled = outage_probability(mean * units, covariance * units**2, precoder, 0, 0.7, 0.2 * units**2)
    assert scaled == pytest.approx(plain, abs=1e-8)


def test_rotating_the_antennas_changes_nothing(rng: np.random.Generator) -> None:
    mean, covariance, precoder = complex_normal(rng, 4), random_psd(rng, 4, 3, 0.6), complex_normal(rng, 4, 3)
    turn, _ = np.linalg.qr(complex_normal(rng, 4, 4))
    plain = outage_probability(mean, covariance, precoder, 1, 0.4, 0.1)
    turned = outage_probability(mean @ turn, turn.T @ covariance @ turn.conj(), turn.conj().T @ precoder, 1, 0.4, 0.1)
    assert turned == pytest.approx(plain, abs=1e-9)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["mean", "covariance", "precoder", "target", "noise"])
def test_no_number_gives_no_promise(poison: float, where: str, rng: np.random.Generator) -> None:
    mean, covariance, precoder = complex_normal(rng, 3), random_psd(rng, 3, 3, 1.0), complex_normal(rng, 3, 2)
    target, noise = 0.5, 0.1
    if where == "mean":
        mean[1] = poison
    elif where == "covariance":
        covariance[0, 0] = poison
    elif where == "precoder":
        precoder[2, 0] = poison
    elif where == "target":
        target = poison
    else:
        noise = poison
    assert math.isnan(outage_probability(mean, covariance, precoder, 0, target, noise))
