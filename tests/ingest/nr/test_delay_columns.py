"""Columns of delays over pilots, against the exponentials that they stand for."""

from __future__ import annotations

import numpy as np
import pytest

from ingest.nr.delay_columns import SIDE, between, directions, turning, with_phase, without_phase

SCS_HZ = 30e3


@pytest.mark.parametrize("count", [1, 2, 3, 16, 17, 100])
@pytest.mark.parametrize("is_even", [True, False])
def test_turns_are_the_exponentials(count: int, is_even: bool) -> None:
    tones_hz = (np.arange(count) - 7.25) * 360e3 + (0.0 if is_even else 1e3) * np.arange(count) ** 2
    delays_s = np.linspace(-0.6e-6, 2.9e-6, 23)
    true = np.exp(-2j * np.pi * np.outer(tones_hz, delays_s))
    np.testing.assert_allclose(turning(tones_hz, delays_s), true, atol=1e-10)


def test_fine_rows_are_those_of_delays_between() -> None:
    tones_hz = (np.arange(72) - 35.5) * 2 * SCS_HZ
    step_s = 0.5 / (72 * 2 * SCS_HZ)  # twice what the band needs
    points, finer = 12, 16
    coarse_s = step_s * np.arange(-SIDE, points + SIDE)
    fine_s = step_s / finer * np.arange((points - 1) * finer + 1)
    fine = np.empty((len(fine_s), len(tones_hz)), np.complex128)
    between(np.exp(-2j * np.pi * np.outer(coarse_s, tones_hz)), finer, fine)
    np.testing.assert_allclose(fine, np.exp(-2j * np.pi * np.outer(fine_s, tones_hz)), atol=3e-4)


@pytest.mark.parametrize("count", [24, 25])
def test_real_coordinates_stand_for_the_columns(count: int) -> None:
    tones_hz = (np.arange(count) - (count - 1) / 2) * SCS_HZ
    delays_s = np.linspace(0.0, 3e-6, 7)
    covers = np.stack([np.ones(count), np.exp(1j * (0.4 + np.pi * np.arange(count)))])
    columns = covers[:, :, None] * np.exp(-2j * np.pi * np.outer(tones_hz, delays_s))
    coordinates, turns = without_phase(columns)
    assert np.isrealobj(coordinates)
    for found, turn, column in zip(coordinates, turns, columns, strict=True):
        np.testing.assert_allclose(with_phase(found), turn * column, atol=1e-9)
        np.testing.assert_allclose(found.T @ found, (column.conj().T @ column).real, atol=1e-9)


@pytest.mark.parametrize("spoilt", [3, 12, 20])
def test_columns_that_are_no_mirror_stay_as_they_are(spoilt: int) -> None:
    columns = np.exp(-2j * np.pi * np.outer((np.arange(25) - 12) * SCS_HZ, np.linspace(0.0, 3e-6, 7)))[None]
    columns[0, spoilt, 2] *= np.exp(1e-4j)
    coordinates, turns = without_phase(columns)
    np.testing.assert_array_equal(coordinates, columns)
    np.testing.assert_array_equal(turns, [1.0])


@pytest.mark.parametrize("shape", [(30, 12), (12, 30)])
def test_directions_are_the_strong_singular_vectors(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(4)
    left, right = (np.linalg.qr(rng.standard_normal((size, 12)))[0] for size in shape)
    values = 10.0 ** -np.arange(12)  # powers down to 1e-22
    strengths, found = directions((left * values) @ right.T, 1e-7)
    np.testing.assert_allclose(strengths, values[3::-1] ** 2, rtol=1e-6)
    np.testing.assert_allclose(np.abs(found.T @ left[:, 3::-1]), np.eye(4), atol=1e-6)
