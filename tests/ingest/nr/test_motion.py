"""How modes move: spectra told from what passed by, against channels made of plane waves whose shifts are known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import j0

from ingest.nr.motion import CFO, ModeMotion, Motion, clarke_hz, move

TIMES_S = np.array([-160e-6, 160e-6])
SLOT_S = 0.5e-3
ANTENNAS = 4
WAVES = 64

Complex = npt.NDArray[np.complex128]


def scattered(rng: np.random.Generator, modes: int, at_s: npt.NDArray[np.float64], most_hz: float) -> Complex:
    """Modes [n, q, A, L] of waves from all around, by Clarke's model."""
    shifts_hz = most_hz * np.cos(rng.uniform(0, 2 * np.pi, (modes, ANTENNAS, WAVES)))
    phases = np.exp(2j * np.pi * rng.uniform(size=shifts_hz.shape))
    turns = np.exp(2j * np.pi * np.multiply.outer(at_s, shifts_hz))
    return np.asarray((turns * phases).mean(axis=-1).transpose(0, 2, 3, 1) * np.sqrt(WAVES))


def followed(modes: Complex, noise_power: float, slots_s: npt.NDArray[np.float64]) -> Motion:
    """A motion that saw modes [n, q, A, L] with noise."""
    rng = np.random.default_rng(1)
    noise = rng.standard_normal(modes.shape) + 1j * rng.standard_normal(modes.shape)
    seen = (modes + np.sqrt(noise_power / 2) * noise).astype(np.complex64)
    motion = Motion(float(np.ptp(TIMES_S)))
    motion.begin(ANTENNAS, np.eye(modes.shape[1], dtype=np.complex64))
    for one, time_s in zip(seen, slots_s, strict=True):
        move(one, TIMES_S, noise_power, time_s, motion.state, motion.before, motion.products, motion.powers)
    return motion


@pytest.mark.kernel
def test_a_line_of_sight_and_what_is_scattered_move_apart() -> None:
    rng = np.random.default_rng(2)
    slots_s = SLOT_S * np.arange(800)
    at_s = slots_s[:, None] + TIMES_S
    modes = scattered(rng, 5, at_s, 120.0)
    modes[:, 4] = 10 * (np.exp(2j * np.pi * 90.0 * at_s)[:, None] + 0.2 * modes[:, 4])
    motion = followed(modes, 1e-3, slots_s)
    told = motion.modes(ANTENNAS, 1e-3)
    assert motion.cfo_hz == pytest.approx(90.0, abs=10.0)  # the line has nearly all the power
    np.testing.assert_array_equal(told.line_share[:4], 0.0)
    np.testing.assert_allclose(told.scatter_hz[:4] + motion.cfo_hz, 0.0, atol=15.0)
    np.testing.assert_allclose(told.doppler_hz[:4], 120.0, atol=12.0)
    assert told.line_share[4] == pytest.approx(1 / 1.04, abs=0.02)
    assert told.line_hz[4] + motion.cfo_hz == pytest.approx(90.0, abs=3.0)
    assert told.scatter_hz[4] + motion.cfo_hz == pytest.approx(0.0, abs=15.0)


def test_a_weak_mode_is_taken_to_move_as_the_others() -> None:
    rng = np.random.default_rng(3)
    slots_s = SLOT_S * np.arange(60)
    modes = scattered(rng, 4, slots_s[:, None] + TIMES_S, 300.0)
    modes[:, 0] *= 1e-3
    told = followed(modes, 0.1, slots_s).modes(ANTENNAS, 0.1)
    assert told.line_share[0] == 0.0
    assert told.doppler_hz[0] == pytest.approx(300.0, rel=0.2)
    assert abs(told.scatter_hz[0]) < 60.0


def test_new_modes_inherit_the_motion_of_the_old_they_are_made_of() -> None:
    rng = np.random.default_rng(4)
    slots_s = SLOT_S * np.arange(400)
    modes = scattered(rng, 3, slots_s[:, None] + TIMES_S, 200.0)
    modes[:, 2] = 5 * np.exp(2j * np.pi * 150.0 * (slots_s[:, None] + TIMES_S))[:, None]
    motion = followed(modes, 1e-3, slots_s)
    before = motion.modes(ANTENNAS, 1e-3)
    motion.begin(ANTENNAS, np.eye(3, dtype=np.complex64)[[2, 0, 1]])
    after = motion.modes(ANTENNAS, 1e-3)
    for name in ("scatter_hz", "doppler_hz", "line_hz", "line_share"):
        np.testing.assert_allclose(getattr(after, name), getattr(before, name)[[2, 0, 1]], atol=1e-6)


def test_correlation_is_that_of_the_spectrum() -> None:
    motion = ModeMotion(np.array([30.0]), np.array([200.0]), np.array([-80.0]), np.array([0.25]))
    apart_s = np.array([[0.0, 1e-4], [-1e-4, 0.0]])
    found = motion.correlation(apart_s)[0]
    for index, apart in np.ndenumerate(apart_s):
        scatter = j0(2 * np.pi * 200.0 * apart) * np.exp(2j * np.pi * 30.0 * apart)
        line = np.exp(-2j * np.pi * 80.0 * apart)
        assert found[index] == pytest.approx(0.75 * scatter + 0.25 * line, abs=1e-12)
    assert clarke_hz(j0(2 * np.pi * 200.0 * 3e-4), 3e-4) == pytest.approx(200.0, abs=1.0)


def test_a_drifting_carrier_is_followed_and_fading_is_not() -> None:
    rng = np.random.default_rng(5)
    slots_s = SLOT_S * np.arange(600)
    at_s = slots_s[:, None] + TIMES_S
    fading = scattered(rng, 3, at_s, 300.0)
    assert abs(followed(fading, 1e-3, slots_s).state[CFO]) < 30.0
    rate_hz_s = 200.0
    drifting = fading * np.exp(1j * np.pi * rate_hz_s * at_s**2)[:, None, None]
    assert followed(drifting, 1e-3, slots_s).state[CFO] == pytest.approx(rate_hz_s * slots_s[-1], abs=30.0)
