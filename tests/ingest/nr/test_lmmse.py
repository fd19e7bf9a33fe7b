"""The kernels that a prior's filter is applied by, against what they say they compute."""

from __future__ import annotations

import numpy as np
import pytest

from ingest.nr.lmmse import ERROR_POWER, NOISE, line_energy, tell_slots

SLOTS, PORTS, ANTENNAS, TONES = 4, 2, 3, 5


@pytest.mark.kernel
@pytest.mark.parametrize("length", [0, 1, 15, 16, 100])
def test_energy_is_that_of_every_sample(length: int) -> None:
    rng = np.random.default_rng(length)
    values = (rng.standard_normal(length) + 1j * rng.standard_normal(length)).astype(np.complex64)
    assert line_energy(values) == pytest.approx(float(np.vdot(values, values).real), rel=1e-5)


@pytest.mark.kernel
@pytest.mark.parametrize("per_port", [TONES, 0])
def test_lines_become_channels_taps_powers_and_snr(per_port: int) -> None:
    rng = np.random.default_rng(1)
    shape = (PORTS * (TONES + per_port), SLOTS * ANTENNAS)
    lines = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)
    told = rng.uniform(0.1, 1.0, (SLOTS, ERROR_POWER + PORTS))
    cfr = np.empty((SLOTS, PORTS, ANTENNAS, TONES), np.complex64)
    taps = np.empty((SLOTS, PORTS, ANTENNAS, per_port), np.complex64)
    snr_db, squares, fourths = np.empty((SLOTS, PORTS)), *np.empty((2, SLOTS, PORTS, ANTENNAS))
    tell_slots(lines, told, cfr, taps, snr_db, squares, fourths)
    parts = lines.reshape(-1, TONES, SLOTS, ANTENNAS).transpose(2, 0, 3, 1)
    np.testing.assert_array_equal(cfr, parts[:, :PORTS])
    np.testing.assert_array_equal(taps, parts[:, PORTS:] if per_port else taps)
    powers = np.abs(cfr) ** 2
    np.testing.assert_allclose(squares, powers.mean(axis=3), rtol=1e-5)
    np.testing.assert_allclose(fourths, (powers**2).mean(axis=3), rtol=1e-5)
    expected = (powers.mean(axis=(2, 3)) + told[:, ERROR_POWER:]) / told[:, NOISE, None]
    np.testing.assert_allclose(snr_db, 10 * np.log10(expected), atol=1e-5)
