"""The interval of SINRs that a decision states: against sampling, and against the outage that it must agree with."""

from __future__ import annotations

import numpy as np
import pytest

from controller.beamforming.linear import DesignProblem, sinr
from controller.outage import outage_probability
from controller.sinr_interval import SHARE, Margins, sinr_intervals, sinr_quantile
from tests.random_channels import complex_normal

pytestmark = pytest.mark.kernel

ANTENNAS = 6


def made_problem(rng: np.random.Generator, users: int, doubt: float) -> tuple[DesignProblem, np.ndarray]:
    """Users whose channels are known but for `doubt` of their power, and a precoder that serves each."""
    means = complex_normal(rng, users, ANTENNAS)
    roots = complex_normal(rng, users, ANTENNAS, 3) * np.sqrt(doubt / 3)
    covariances = roots @ roots.conj().swapaxes(1, 2) + 1e-4 * np.eye(ANTENNAS)
    noise = rng.uniform(0.01, 0.3, users)
    precoder = np.linalg.pinv(means) + 0.05 * complex_normal(rng, ANTENNAS, users)
    return DesignProblem(means, covariances, noise, np.ones(users), 1.0), precoder


@pytest.mark.parametrize(("users", "doubt"), [(1, 0.1), (2, 0.01), (3, 0.1), (3, 1.0), (5, 0.03)])
def test_so_many_samples_lie_inside(users: int, doubt: float, rng: np.random.Generator) -> None:
    problem, precoder = made_problem(rng, users, doubt)
    low, high = sinr_intervals(problem, precoder)
    draws = 20_000
    for user in range(users):
        root = np.linalg.cholesky(problem.covariances[user])
        channels = problem.means[user] + complex_normal(rng, draws, ANTENNAS) @ root.T
        received = np.abs(channels @ precoder) ** 2
        wanted = received[:, user]
        found = wanted / (received.sum(axis=1) - wanted + problem.noise_power[user])
        for share in (np.mean(found < low[user]), np.mean(found > high[user])):
            # Five standard errors of the sampling, and what a quantile is searched to.
            assert abs(share - (1 - SHARE) / 2) < 5 * np.sqrt(0.05 * 0.95 / draws) + 2e-3


def test_it_is_where_outage_has_its_value(rng: np.random.Generator) -> None:
    """Also far out, where nobody could sample."""
    problem, precoder = made_problem(rng, 3, 0.2)
    for user in range(3):
        mean, covariance = problem.means[user], problem.covariances[user]
        z_mean, z_covariance = precoder.T @ mean, precoder.T @ covariance @ precoder.conj()
        noise = float(problem.noise_power[user])
        for probability in (0.02, 0.3, 0.5, 0.9, 0.99):
            x = sinr_quantile(z_mean, z_covariance, user, noise, probability)
            assert outage_probability(mean, covariance, precoder, user, x, noise) == pytest.approx(
                probability, abs=2.1e-3
            )


def test_what_is_certain_has_no_width(rng: np.random.Generator) -> None:
    problem, precoder = made_problem(rng, 3, 0.1)
    certain = DesignProblem(problem.means, 0 * problem.covariances, problem.noise_power, np.ones(3), 1.0)
    expected = sinr(problem.means, precoder, problem.noise_power)
    for end in sinr_intervals(certain, precoder):
        np.testing.assert_allclose(end, expected, rtol=1e-6)


def test_who_is_sent_nothing_has_no_sinr(rng: np.random.Generator) -> None:
    problem, precoder = made_problem(rng, 2, 0.1)
    precoder[:, 0] = 0
    low, high = sinr_intervals(problem, precoder)
    assert low[0] == high[0] == 0
    assert 0 < low[1] < high[1]


def test_nothing_finite_comes_of_nan(rng: np.random.Generator) -> None:
    problem, precoder = made_problem(rng, 2, 0.1)
    problem.means[0, 0] = np.nan
    low, _ = sinr_intervals(problem, precoder)
    assert np.isnan(low[0])


@pytest.mark.parametrize("spread", [0.5, 1.0, 3.0])
def test_margins_make_up_for_a_belief_that_errs(spread: float, rng: np.random.Generator) -> None:
    """Outcomes spread otherwise than the belief says, about another place, which moves half-way."""
    margins, beyond, blocks = Margins(), np.zeros(2), 4000
    for block in range(blocks):
        outcome_db = (2.0 if block < blocks / 2 else -1.0) + spread * rng.normal()
        low_db, high_db = margins.around(-1.645, 1.645)
        is_below, is_above = outcome_db < low_db, outcome_db > high_db
        beyond += is_below, is_above
        margins = margins.after(is_below, is_above)
    np.testing.assert_allclose(beyond / blocks, (1 - SHARE) / 2, atol=5e-3)


def test_an_interval_does_not_turn_over() -> None:
    low_db, high_db = Margins(-5.0, -3.0).around(-1.0, 1.0)
    assert low_db == high_db == 1.0
    assert Margins(2.0, 3.0).around(-1.0, 1.0) == (-3.0, 4.0)
