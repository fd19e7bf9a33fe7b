"""Linear precoders are what they are called: each with the certificate of what it maximises or nulls."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.beamforming import PRECODERS, DesignProblem
from controller.beamforming.linear import mrt, rzf, sinr, zf
from controller.covariance import Complex
from tests.random_channels import complex_normal


def random_problem(
    rng: np.random.Generator, users: int, antennas: int, *, units: float = 1.0, power: float = 2.0, error: float = 0.3
) -> DesignProblem:
    roots = error * units * complex_normal(rng, users, antennas, 2)
    return DesignProblem(
        means=units * complex_normal(rng, users, antennas),
        covariances=roots @ roots.conj().transpose(0, 2, 1),
        noise_power=units**2 * rng.uniform(0.05, 0.5, users),
        sinr_target=np.ones(users),
        power=power,
    )


SHAPES = [(1, 1), (1, 4), (2, 4), (4, 4), (6, 4)]
"""Users and antennas."""


def shares(precoder: Complex) -> list[float]:
    return [float(np.linalg.norm(column) ** 2) for column in precoder.T]


@pytest.mark.parametrize("name", PRECODERS)
@pytest.mark.parametrize(("users", "antennas"), SHAPES)
@pytest.mark.parametrize("units", [1.0, 1e-6])
def test_power_is_filled_and_shared(
    name: str, users: int, antennas: int, units: float, rng: np.random.Generator
) -> None:
    problem = random_problem(rng, users, antennas, units=units, power=0.7)
    precoder = PRECODERS[name](problem)
    assert precoder.shape == (antennas, users)
    np.testing.assert_allclose(shares(precoder), 0.7 / users, rtol=1e-9)


def test_mrt_is_the_most_that_a_user_can_get(rng: np.random.Generator) -> None:
    """Cauchy and Schwarz: |h f| <= |h| |f|, with equality."""
    problem = random_problem(rng, 3, 4)
    precoder = mrt(problem)
    for user in range(3):
        received = complex(problem.means[user] @ precoder[:, user])
        assert received.real == pytest.approx(np.linalg.norm(problem.means[user]) * np.linalg.norm(precoder[:, user]))
        assert abs(received.imag) < 1e-12


@pytest.mark.parametrize(("users", "antennas"), [(1, 4), (2, 4), (4, 4)])
def test_zf_nulls_all_interference(users: int, antennas: int, rng: np.random.Generator) -> None:
    problem = random_problem(rng, users, antennas, units=1e-5)
    received = problem.means @ zf(problem)
    wanted = np.abs(np.diag(received))
    assert np.abs(received - np.diag(np.diag(received))).max() < 1e-10 * wanted.min()


def test_zf_wastes_nothing(rng: np.random.Generator) -> None:
    """Of all precoders that null the pseudo-inverse gives each user the most: none of it goes beside the channels."""
    problem = random_problem(rng, 2, 5)
    precoder = zf(problem)
    _, _, conjugated = np.linalg.svd(problem.means)
    beside = conjugated[2:].conj().T  # what no user hears
    assert np.abs(beside.conj().T @ precoder).max() < 1e-12
    for user in range(2):
        wasteful = precoder[:, user] + 0.3 * beside @ complex_normal(rng, 3)
        wasteful *= np.linalg.norm(precoder[:, user]) / np.linalg.norm(wasteful)
        assert abs(problem.means[user] @ wasteful) < abs(problem.means[user] @ precoder[:, user])


def test_zf_bears_channels_of_very_unlike_strength(rng: np.random.Generator) -> None:
    problem = random_problem(rng, 3, 4)
    problem.means[1] *= 1e-7
    received = problem.means @ zf(problem)
    for user in range(3):
        others = np.abs(np.delete(received[user], user))
        assert others.max() < 1e-9 * abs(received[user, user])


def leakage(problem: DesignProblem) -> Complex:
    """sum_j E[h_j^H h_j] / noise_j + K / power I, written entry by entry."""
    users, antennas = problem.means.shape
    total = np.zeros((antennas, antennas), np.complex128)
    for j in range(users):
        for a in range(antennas):
            for b in range(antennas):
                mean = problem.means[j, a].conj() * problem.means[j, b]
                # covariances are E[e e^H]: entry (b, a) is E[e_b e_a^*].
                total[a, b] += (mean + problem.covariances[j, b, a]) / problem.noise_power[j]
    return total + users / problem.power * np.eye(antennas)


@pytest.mark.parametrize(("users", "antennas"), SHAPES)
def test_rzf_maximises_signal_over_leakage_and_noise(users: int, antennas: int, rng: np.random.Generator) -> None:
    """Each column maximises |h_k f|^2 / f^H A f; the greatest value is h_k A^-1 h_k^H, reached nowhere else."""
    problem = random_problem(rng, users, antennas)
    against, precoder = leakage(problem), rzf(problem)

    def quality(user: int, f: Complex) -> float:
        return float(abs(problem.means[user] @ f) ** 2 / np.vdot(f, against @ f).real)

    for user in range(users):
        h = problem.means[user]
        best = float((h @ np.linalg.solve(against, h.conj())).real)
        assert quality(user, precoder[:, user]) == pytest.approx(best, rel=1e-9)
        for size in (1e-3, 0.1, 1.0):
            other = precoder[:, user] + size * complex_normal(rng, antennas)
            assert quality(user, other) <= best * (1 + 1e-12)


def test_rzf_minimises_the_mean_square_error(rng: np.random.Generator) -> None:
    """Without errors and with equal noise the directions are those of the transmit MMSE: least |d - (h F d + n) / a|^2.

    At its optimum over all F of the power budget no change of the directions lowers the error.
    """
    problem = random_problem(rng, 3, 4, error=0.0)
    problem = DesignProblem(problem.means, problem.covariances, np.full(3, 0.2), problem.sinr_target, problem.power)
    directions = rzf(problem)
    gram = problem.means.conj().T @ problem.means / 0.2 + 3 / problem.power * np.eye(4)
    unscaled = np.linalg.inv(gram) @ problem.means.conj().T

    def error(f: Complex) -> float:
        f = f * np.sqrt(problem.power) / np.linalg.norm(f)
        received = problem.means @ f
        gain = (np.sum(np.abs(received) ** 2) + 3 * 0.2) / np.trace(received).real
        return float(np.linalg.norm(received / gain - np.eye(3)) ** 2 + 3 * 0.2 / gain**2)

    for user in range(3):
        alike = abs(np.vdot(directions[:, user], unscaled[:, user]))
        assert alike == pytest.approx(np.linalg.norm(directions[:, user]) * np.linalg.norm(unscaled[:, user]))
    least = error(unscaled)
    for _ in range(200):
        assert error(unscaled + 0.02 * np.linalg.norm(unscaled) * complex_normal(rng, 4, 3)) >= least * (1 - 1e-12)


def test_rzf_lies_between_mrt_and_zf(rng: np.random.Generator) -> None:
    """Much noise: nothing but signal counts. Little noise and no doubt: nothing but interference does."""
    problem = random_problem(rng, 3, 4, error=0.0)
    noisy = DesignProblem(problem.means, problem.covariances, np.full(3, 1e6), problem.sinr_target, 1.0)
    clear = DesignProblem(problem.means, problem.covariances, np.full(3, 1e-9), problem.sinr_target, 1.0)
    for found, expected in ((rzf(noisy), mrt(noisy)), (rzf(clear), zf(clear))):
        for user in range(3):
            alike = abs(np.vdot(found[:, user], expected[:, user]))
            assert alike == pytest.approx(1 / 3, rel=1e-4)


def test_rzf_keeps_away_from_what_it_does_not_know(rng: np.random.Generator) -> None:
    """What others may hear of a beam, E |e f|^2, is less than without knowing of the errors."""
    problem = random_problem(rng, 2, 6, error=1.0)
    blind = DesignProblem(
        problem.means, np.zeros_like(problem.covariances), problem.noise_power, problem.sinr_target, problem.power
    )

    def heard(f: Complex, user: int) -> float:
        # E |e f|^2 by drawing errors e from their covariance
        values, vectors = np.linalg.eigh(problem.covariances[user])
        errors = complex_normal(rng, 20_000, 6) @ (vectors * np.sqrt(np.maximum(values, 0))).T
        return float(np.mean(np.abs(errors @ f) ** 2))

    for user in range(2):
        other = 1 - user
        assert heard(rzf(problem)[:, user], other) < 0.7 * heard(rzf(blind)[:, user], other)


@pytest.mark.parametrize("name", PRECODERS)
def test_a_user_without_a_mean_is_sent_where_it_may_be(name: str, rng: np.random.Generator) -> None:
    """Its beam is the strongest direction of its covariance: no unit beam brings more power on average."""
    problem = random_problem(rng, 3, 4)
    problem.means[1] = 0.0
    precoder = PRECODERS[name](problem)
    np.testing.assert_allclose(shares(precoder), problem.power / 3, rtol=1e-9)
    beam = precoder[:, 1] / np.linalg.norm(precoder[:, 1])

    def power(f: Complex) -> float:
        return float((f @ problem.covariances[1] @ f.conj()).real)  # E |e f|^2

    assert power(beam) == pytest.approx(np.linalg.eigvalsh(problem.covariances[1])[-1])
    for _ in range(100):
        other = complex_normal(rng, 4)
        assert power(other / np.linalg.norm(other)) <= power(beam) * (1 + 1e-12)


@pytest.mark.parametrize("name", PRECODERS)
def test_nothing_known_of_anyone_is_still_a_precoder(name: str) -> None:
    nothing = DesignProblem(
        np.zeros((2, 3), np.complex128), np.zeros((2, 3, 3), np.complex128), np.ones(2), np.ones(2), 1.0
    )
    np.testing.assert_allclose(shares(PRECODERS[name](nothing)), 0.5, rtol=1e-9)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_sinr_is_its_definition(users: int, antennas: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    means, precoder = complex_normal(rng, users, antennas), complex_normal(rng, antennas, users)
    noise = rng.uniform(0.01, 1.0, users)
    found = sinr(means, precoder, noise)
    for user in range(users):
        powers = [abs(sum(means[user, n] * precoder[n, beam] for n in range(antennas))) ** 2 for beam in range(users)]
        others = sum(power for beam, power in enumerate(powers) if beam != user)
        assert found[user] == pytest.approx(powers[user] / (others + noise[user]))
