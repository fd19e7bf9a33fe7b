"""Kernels from paths to tones and taps, against sums written out, the channels' own synthesis, and known answers."""

from __future__ import annotations

import numpy as np
import pytest

from sim.channels import SiteArrays
from sim.datasets.shaping import as_taps, earliest_s, on_tones, path_responses
from sim.paths import empty_table
from sim.site import SPEED_OF_LIGHT_M_S
from tests.sim.hand_made import line_of_sight, random_table, small_site

pytestmark = pytest.mark.kernel
TONES_HZ = np.array([-10e6, 0.0, 2.5e6])


@pytest.fixture
def arrays() -> SiteArrays:
    return SiteArrays(small_site(ris=False), empty_table(1))


def test_tones_are_those_of_the_channels_own_synthesis(arrays: SiteArrays, rng: np.random.Generator) -> None:
    table = random_table(rng, [3, 0, 5, 1])
    found = on_tones(path_responses(arrays, table), table, TONES_HZ)
    wanted = arrays.direct_cfr(table, np.arange(4), np.zeros((4, 3)), TONES_HZ)
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6 * np.abs(wanted).max())
    assert not found[1].any()


def test_taps_are_the_sum_written_out(arrays: SiteArrays, rng: np.random.Generator) -> None:
    table = random_table(rng, [4, 0, 2])
    responses = path_responses(arrays, table)
    found = as_taps(responses, table, 12, 40e6, 3)
    for link in range(3):
        rows = range(table.offsets[link], table.offsets[link + 1])
        first = min((table.length_m[row] for row in rows), default=0.0)
        for antenna in range(6):
            for tap in range(12):
                late = [40e6 * (table.length_m[row] - first) / SPEED_OF_LIGHT_M_S for row in rows]
                terms = [responses[row, antenna] * np.sinc(tap - 3 - t) for row, t in zip(rows, late, strict=True)]
                assert found[link, antenna, tap] == pytest.approx(sum(terms), rel=1e-9, abs=1e-18)


def test_a_line_of_sight_is_one_tap(arrays: SiteArrays) -> None:
    user_m = np.array([[40.0, 5.0, 1.5]])
    table = line_of_sight(np.array([0.0, 0.0, 10.0]), user_m, SPEED_OF_LIGHT_M_S / 3.5e9)
    taps = as_taps(path_responses(arrays, table), table, 6, 20e6, 2)
    np.testing.assert_allclose(np.abs(taps[0, :, 2]), table.gain[0].real, rtol=0.02)
    np.testing.assert_allclose(np.delete(taps, 2, axis=2), 0.0, atol=1e-15)


def test_taps_and_tones_are_one_channel(arrays: SiteArrays, rng: np.random.Generator) -> None:
    """Far from the band's edges the taps' spectrum is the response on tones, but for the earliest path's delay."""
    table = random_table(rng, [5])
    responses = path_responses(arrays, table)
    count, before, bandwidth_hz = 1024, 512, 20e6
    taps = as_taps(responses, table, count, bandwidth_hz, before)
    lags = np.arange(count) - before
    spectrum = taps @ np.exp(-2j * np.pi * np.outer(lags, TONES_HZ[1:]) / bandwidth_hz)
    spectrum *= np.exp(-2j * np.pi * TONES_HZ[1:] * earliest_s(table)[0])
    np.testing.assert_allclose(spectrum, on_tones(responses, table, TONES_HZ[1:]), atol=2e-3 * np.abs(responses).sum())


def test_earliest_path(rng: np.random.Generator) -> None:
    table = random_table(rng, [3, 0])
    found = earliest_s(table)
    assert found[0] == table.length_m.min() / SPEED_OF_LIGHT_M_S
    assert np.isnan(found[1])
