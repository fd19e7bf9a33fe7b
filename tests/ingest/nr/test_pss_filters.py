"""Filters side by side are inverse transforms of products, as NumPy does them one by one, and so are their peaks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from ingest.nr import pss_filters
from ingest.nr.pss_filters import peaks
from ingest.nr.pss_lanes import (
    COARSE,
    IMAGINARY,
    LANES,
    OUTPUTS,
    POINTS,
    limits_side_by_side,
    side_by_side,
    templates_of,
)
from tests.ingest.nr.conftest import add_power, filter_by_numpy, power_by_numpy
from tests.ingest.nr.signals import noise

KEPT = np.r_[0:288, 736:1024]
APART = 200


def bins(rng: np.random.Generator, *shape: int) -> npt.NDArray[np.complex64]:
    return noise(rng, int(np.prod(shape[:-1])), shape[-1]).reshape(shape).astype(np.complex64)


def slow_powers(spectra: npt.NDArray[np.complex64], template: npt.NDArray[np.complex64]) -> npt.NDArray[np.float64]:
    """Of outputs and middles by turns. Shape [segments x POINTS]."""
    outputs = np.fft.ifft(spectra[..., KEPT].astype(np.complex128) * template, axis=2) * COARSE
    here, following = outputs[..., :OUTPUTS], outputs[..., 1 : OUTPUTS + 1]
    both = np.stack([np.abs(here) ** 2, np.abs(here + following) ** 2 / 2], axis=3)
    return np.asarray(both.sum(axis=0).reshape(-1))


@pytest.mark.kernel
def test_the_transform_in_three_passes(rng: np.random.Generator) -> None:
    spectra, template = bins(rng, 1, LANES, 1024), bins(rng, 1, COARSE)
    values = np.empty(2 * IMAGINARY, np.float32)
    out = np.zeros(2 * pss_filters._OUT_IMAGINARY, np.float32)
    given = side_by_side(spectra, KEPT)[0, 0], templates_of(template)[0]
    pss_filters._nines(*given, values)
    pss_filters._eights(values, pss_filters._TURNING)
    pss_filters._last_eights(values, pss_filters._ROWS, out)
    parts = [out[first : first + COARSE * LANES].reshape(COARSE, LANES) for first in (0, pss_filters._OUT_IMAGINARY)]
    expected = np.fft.ifft(spectra[0, :, KEPT].T * template[0], axis=1).T * COARSE
    np.testing.assert_allclose(parts[0] + 1j * parts[1], expected, atol=1e-4 * COARSE**0.5)
    numpys = np.zeros_like(out)
    filter_by_numpy(*given, pss_filters._ROWS, pss_filters._TURNING, values, numpys)
    np.testing.assert_allclose(numpys, out, atol=1e-4 * COARSE**0.5)


@pytest.mark.kernel
def test_power_is_added_and_compared(rng: np.random.Generator) -> None:
    out = rng.normal(size=2 * pss_filters._OUT_IMAGINARY).astype(np.float32)
    before = rng.random(POINTS * LANES).astype(np.float32)
    limits = rng.uniform(0, 9, POINTS * LANES).astype(np.float32)
    one, other = before.copy(), before.copy()
    assert add_power(out, one, limits) == power_by_numpy(out, other, limits)
    np.testing.assert_allclose(one, other, rtol=1e-5)
    assert np.all(one >= before)


@pytest.mark.kernel
@pytest.mark.parametrize("antennas", [1, 2])
def test_peaks_are_the_places_above_the_limits(antennas: int, rng: np.random.Generator) -> None:
    """Of two segments more than lie side by side, by two templates."""
    segments = LANES + 2
    spectra, templates = bins(rng, antennas, segments, 1024), bins(rng, 2, COARSE)
    powers = [slow_powers(spectra, template) for template in templates]
    limits = (np.quantile(powers, 0.999) * rng.uniform(0.8, 1.2, segments * POINTS)).astype(np.float32)
    ordered = limits_side_by_side(limits, POINTS, np.arange(POINTS), segments)
    places, counts = peaks(side_by_side(spectra, KEPT), templates_of(templates), ordered, APART, 64)
    for power, found in zip(powers, [row[:count] for row, count in zip(places, counts, strict=True)], strict=True):
        shares = power / limits
        above = np.flatnonzero(shares > 1.0)
        assert 10 < len(found) < len(above)
        assert set(found) <= set(above)
        assert np.all(np.diff(found) >= APART / 2)
        nearest = found[np.argmin(np.abs(above[:, None] - found), axis=1)]
        assert np.all(np.abs(nearest - above) <= APART)
        assert int(np.argmax(shares)) in found


@pytest.mark.kernel
def test_of_too_many_peaks_the_best_are_kept(rng: np.random.Generator) -> None:
    spectra, templates = bins(rng, 1, 3, 1024), bins(rng, 1, COARSE)
    shares = slow_powers(spectra, templates[0])
    ordered = limits_side_by_side(np.ones(3 * POINTS, np.float32), POINTS, np.arange(POINTS), 3)
    places, counts = peaks(side_by_side(spectra, KEPT), templates_of(templates), ordered, 1, 8)
    assert counts.tolist() == [8]
    assert set(places[0]) == set(np.argsort(shares)[-8:])


@pytest.mark.kernel
def test_limits_lie_beside_the_powers_that_they_are_of() -> None:
    places = np.arange(POINTS) + 3
    ordered = limits_side_by_side(np.arange(1000 * (LANES + 1), dtype=np.float32), 1000, places, LANES + 1)
    by_point = ordered.reshape(2, 2, OUTPUTS, LANES)
    for segment, point in ((0, 0), (0, 1), (5, 862), (LANES, 7)):
        expected = 1000 * segment + 3 + point
        assert by_point[segment // LANES, point % 2, point // 2, segment % LANES] == expected
    assert np.all(np.isinf(by_point[1, ..., 1:]))
