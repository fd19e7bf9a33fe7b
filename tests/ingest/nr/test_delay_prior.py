"""The learnt prior over delays, against the covariance of channels whose paths are known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from ingest.nr.delay_prior import DelayPrior, DelayWindow

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
