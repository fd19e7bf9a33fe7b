"""The learnt prior over delays, against the covariance of channels whose paths are known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from ingest.nr.delay_columns import DelayWindow
from ingest.nr.delay_prior import DelayPrior

SCS_HZ = 30e3
WINDOW = DelayWindow(-0.6e-6, 2.9e-6)
DELAYS_S = np.array([0.0, 0.113e-6, 0.4512e-6, 1.307e-6])
POWERS = np.array([0.5, 0.3, 0.15, 0.05])


def comb(prbs: int) -> npt.NDArray[np.float64]:
    """Type 1 DMRS: every other subcarrier."""
    return np.asarray((np.arange(6 * prbs) * 2 - 6.0 * prbs) * SCS_HZ)


def steering(tones_hz: npt.NDArray[np.float64]) -> npt.NDArray[np.complex128]:
    return np.asarray(np.exp(-2j * np.pi * tones_hz[:, None] * DELAYS_S))


def taught(
    tones_hz: npt.NDArray[np.float64], covers: npt.NDArray[np.complex128], slots: int, noise: float
) -> DelayPrior:
    """A prior after `slots` independent fadings of the paths above on every port."""
    rng = np.random.default_rng(5)
    prior = DelayPrior(tones_hz, covers, WINDOW)
    paths = np.concatenate([cover[:, None] * steering(tones_hz) for cover in covers], axis=1)
    deviation = np.sqrt(np.tile(POWERS, len(covers)) / 2)

    def normal(*shape: int) -> npt.NDArray[np.complex128]:
        return np.asarray(rng.standard_normal(shape) + 1j * rng.standard_normal(shape))

    for slot in range(slots):
        gains = deviation[:, None] * normal(len(deviation), 2)
        received = paths @ gains + np.sqrt(noise / 2) * normal(len(tones_hz), 2)
        prior.observe(prior.subspace.conj().T @ received, noise)
        if slot & (slot - 1) == 0 or slot == slots - 1:
            list(prior.fit(6))
    return prior


@pytest.mark.parametrize("shape", ["one port", "two ports", "uneven tones"])
def test_covariance_of_known_paths_is_learnt(shape: str) -> None:
    tones_hz = comb(24)
    covers = np.ones((1, len(tones_hz)), complex)
    if shape == "two ports":
        covers = np.stack([covers[0], 1.0 - 2.0 * (np.arange(len(tones_hz)) % 2)])
    if shape == "uneven tones":  # not symmetric about their middle, so the complex way is taken
        tones_hz = np.delete(tones_hz, slice(20, 50))
        covers = covers[:, : len(tones_hz)]
    prior = taught(tones_hz, covers, 256, 1.0)
    outputs_hz = np.linspace(-4e6, 4e6, 9)
    out = np.exp(-2j * np.pi * outputs_hz[:, None] * DELAYS_S)
    for port, cover in enumerate(covers):
        true = (out * POWERS) @ (prior.subspace.conj().T @ (cover[:, None] * steering(tones_hz))).conj().T
        found = prior.cross_covariance(port, outputs_hz)
        assert np.linalg.norm(found - true) < 0.15 * np.linalg.norm(true)
        assert prior.powers[port].sum() == pytest.approx(1.0, rel=0.15)


def test_subspace_holds_every_delay_of_the_window() -> None:
    tones_hz = comb(24)
    prior = DelayPrior(tones_hz, np.ones((1, len(tones_hz)), complex), WINDOW)
    basis = prior.subspace
    assert np.allclose(basis.conj().T @ basis, np.eye(basis.shape[1]), atol=1e-9)
    delays_s = np.linspace(WINDOW.earliest_s, WINDOW.latest_s, 57)
    lines = np.exp(-2j * np.pi * tones_hz[:, None] * delays_s)
    lost = lines - basis @ (basis.conj().T @ lines)
    assert np.sum(np.abs(lost) ** 2, axis=0).max() < 1e-4 * len(tones_hz)
    strong = basis[:, -prior.strong :].conj().T @ lines
    inside = np.sum(np.abs(strong) ** 2, axis=0) / len(tones_hz)
    assert np.median(inside) > 0.99
    assert inside.min() > 0.5


def test_a_path_between_grid_points_is_one_mode() -> None:
    """What it is for that delays are told more finely than the band resolves: no path looks like two."""
    tones_hz = comb(52)
    prior = DelayPrior(tones_hz, np.ones((1, len(tones_hz)), complex), WINDOW)
    delay_s = 0.5 * (prior.delays_s[600] + prior.delays_s[601])
    line = np.exp(-2j * np.pi * tones_hz * delay_s)
    noise = 1.0
    for _ in range(8):
        prior.observe(prior.subspace.conj().T @ line[:, None], noise)
        list(prior.fit(6))
    variances, _ = prior.modes(0.1 * noise)
    assert variances[-1] > 0.5 * len(tones_hz)
    assert np.all(variances[:-1] < noise)


@pytest.mark.parametrize("noise", [3.0, 0.3])
def test_delay_spread_is_that_of_the_paths(noise: float) -> None:
    tones_hz = comb(52)
    prior = taught(tones_hz, np.ones((1, len(tones_hz)), complex), 256, noise)
    mean_s = float(POWERS @ DELAYS_S)
    spread_s = float(np.sqrt(POWERS @ (DELAYS_S - mean_s) ** 2))
    found_mean_s, found_spread_s = prior.moments_s(0)
    assert found_mean_s == pytest.approx(mean_s, abs=0.03e-6)
    assert found_spread_s == pytest.approx(spread_s, rel=0.15)


@pytest.mark.parametrize("is_even", [True, False])
def test_a_fit_is_at_a_maximum_of_the_likelihood(is_even: bool) -> None:
    """Where many rounds lead, the likelihood, written out over all pilots, has no slope along a power that is left."""
    tones_hz = comb(12) if is_even else np.delete(comb(12), slice(10, 21))
    covers = np.ones((1, len(tones_hz)), complex)
    rng = np.random.default_rng(7)
    prior, noise = DelayPrior(tones_hz, covers, WINDOW), 0.2
    observed = np.zeros((len(tones_hz), len(tones_hz)), complex)
    for number in range(40):
        gains = np.sqrt(POWERS / 2)[:, None] * (rng.standard_normal((4, 2)) + 1j * rng.standard_normal((4, 2)))
        white = rng.standard_normal((len(tones_hz), 2)) + 1j * rng.standard_normal((len(tones_hz), 2))
        received = steering(tones_hz) @ gains + np.sqrt(noise / 2) * white
        prior.observe(prior.subspace.conj().T @ received, noise)
        observed += (received @ received.conj().T / 2 - observed) / (number + 1)
    if is_even:  # forward-backward
        observed = (observed + observed[::-1, ::-1].conj()) / 2
    list(prior.fit(600))
    columns = np.exp(-2j * np.pi * (tones_hz - tones_hz.mean())[:, None] * prior.delays_s)
    powers = prior.powers[0]
    whitened = np.linalg.solve((columns * powers) @ columns.conj().T + noise * np.eye(len(tones_hz)), columns)
    found = np.sum(whitened.conj() * (observed @ whitened), axis=0).real
    expected = np.sum(columns.conj() * whitened, axis=0).real
    strong = powers * len(tones_hz) > noise
    assert np.count_nonzero(strong) >= 4
    np.testing.assert_allclose(found[strong] / expected[strong], 1.0, atol=0.02)
    assert np.sum(powers * (found / expected - 1.0)) == pytest.approx(0.0, abs=0.01 * powers.sum())


def test_observations_weigh_alike_however_many_wait() -> None:
    """A fit takes in what waits: asking for one after each observation leaves the same covariance as at the end."""
    tones_hz = comb(12)
    covers = np.ones((1, len(tones_hz)), complex)
    rng = np.random.default_rng(8)
    seen = [rng.standard_normal((len(tones_hz), 3)) + 1j * rng.standard_normal((len(tones_hz), 3)) for _ in range(130)]
    often, once = (DelayPrior(tones_hz, covers, WINDOW) for _ in range(2))
    for received in seen:
        for prior in (often, once):
            prior.observe(prior.subspace.conj().T @ received, 1.0)
        next(often.fit(0))
    for prior in (often, once):
        prior._powers = None  # both fit anew
        list(prior.fit(6))
    np.testing.assert_allclose(often.powers, once.powers, rtol=1e-6, atol=1e-12)


def test_negligible_powers_are_left_to_the_coarse_delays_and_not_lost() -> None:
    tones_hz = comb(24)
    prior = taught(tones_hz, np.ones((1, len(tones_hz)), complex), 64, 1.0)
    told = [prior.powers.sum()]
    steps = prior.fit(3)
    for _ in range(4):
        next(steps)
    spread = prior.powers.copy()
    list(steps)
    told.append(prior.powers.sum())
    np.testing.assert_allclose(prior.powers.sum(), spread.sum(), rtol=1e-12)
    assert np.count_nonzero(prior.powers) < 0.5 * np.count_nonzero(spread)
    assert told[0] == pytest.approx(told[1], rel=0.02)


@pytest.mark.parametrize("noise", [0.1, 0.01])
def test_what_one_slot_tells_serves_the_next_one(noise: float) -> None:
    """Of many paths, some fade in the only slot seen. Who does not allow for it errs 7 dB more than who knows all."""
    tones_hz = comb(52)
    rng = np.random.default_rng(11)
    errors = np.zeros(2)
    for _ in range(20):
        delays_s = rng.exponential(100e-9, 24)
        paths = np.exp(-2j * np.pi * tones_hz[:, None] * delays_s)
        channels = paths @ (rng.standard_normal((24, 2, 2)) @ [1.0, 1j]) / np.sqrt(48)
        seen = channels + np.sqrt(noise / 2) * (rng.standard_normal((len(tones_hz), 2, 2)) @ [1.0, 1j])
        prior = DelayPrior(tones_hz, np.ones((1, len(tones_hz)), complex), WINDOW)
        prior.observe(prior.subspace.conj().T @ seen[:, :1], noise)
        list(prior.fit(6))
        fourier = np.exp(-2j * np.pi * tones_hz[:, None] * prior.delays_s)
        for index, (columns, powers) in enumerate(((fourier, prior.powers[0]), (paths, np.full(24, 1 / 24)))):
            covariance = (columns * powers) @ columns.conj().T
            found = covariance @ np.linalg.solve(covariance + noise * np.eye(len(tones_hz)), seen[:, 1])
            errors[index] += np.mean(np.abs(found - channels[:, 1]) ** 2)
    assert 10 * np.log10(errors[0] / errors[1]) < 5.5
