"""The PSSs' matched filters over many segments of a band at a time: inverse transforms, powers, and their peaks.

Nearly all of a cell search's time goes into these transforms. Sixteen segments lie side by side, the segment being the
index that runs fastest, so that one operation does for all of them and a compiler makes vectors of it; spectrum,
template, transform and power stay in the cache. The transform's 576 points are 9 x 64, which have no factor in common,
so no turning is needed between the two (Good 1958, Thomas 1963); the 64 are 8 x 8, with the turning in between.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ingest.kernel import kernel
from ingest.nr.pss_lanes import COARSE, IMAGINARY, LANES, MIDDLES, PART, POINTS, Real

_OUT_IMAGINARY = COARSE * LANES + LANES
_ROW8, _STRIDE72 = 8 * LANES, 72 * LANES

_HALF, _ROOT_HALF, _ROOT_3_4 = (np.float32(np.sqrt(square)) for square in (0.25, 0.5, 0.75))
_COS_1, _COS_2, _COS_4 = (np.float32(np.cos(2 * np.pi * ninths / 9)) for ninths in (1, 2, 4))
_SIN_1, _SIN_2, _SIN_4 = (np.float32(np.sin(2 * np.pi * ninths / 9)) for ninths in (1, 2, 4))


def _order() -> tuple[npt.NDArray[np.int64], Real]:
    """Rows [part, k] of an output's first occurrence, and the turning [2 x (part, column, k)] that brings it there.

    Output k + 8 m of a part is point 64 part + 513 (k + 8 m) = 64 part + 513 k + 72 m (mod 576), by the remainder
    theorem. It is to be stored at a point's own row: the transform over columns is turned so that m = 0 is the first.
    """
    part, column, k = np.meshgrid(np.arange(9), np.arange(8), np.arange(8), indexing="ij")
    begin = (64 * part + 513 * k) % COARSE
    turning = np.exp(2j * np.pi * (column * k / 64 - column * (begin // 72) / 8))
    rows = np.ascontiguousarray(begin[:, 0] % 72, np.int64)
    return rows, np.concatenate([turning.real.ravel(), turning.imag.ravel()]).astype(np.float32)


_ROWS, _TURNING = _order()


def peaks(
    spectra: Real, templates: Real, limits: Real, apart: int, most: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where filters' powers, summed over antennas, exceed limits and do so most within `apart` points.

    spectra, templates, limits: as `side_by_side`, `templates_of` and `limits_side_by_side` give them. Places [T, most],
    counted in points from the first segment's on, and how many there are [T]; of too many the least are given up.
    """
    places = np.empty((len(templates), most), np.int64)
    return places, _peaks(spectra, templates, limits, _ROWS, _TURNING, places, apart)


@kernel
def _peaks(
    spectra: Real,
    templates: Real,
    limits: Real,
    rows: npt.NDArray[np.int64],
    turning: Real,
    places: npt.NDArray[np.int64],
    apart: int,
) -> npt.NDArray[np.int64]:
    """See `peaks`; fills places. A group of segments is filtered by all templates while it is in the cache."""
    part, out = np.empty(2 * IMAGINARY, np.float32), np.empty(2 * _OUT_IMAGINARY, np.float32)
    power, shares = np.empty(POINTS * LANES, np.float32), np.empty(places.shape, np.float32)
    # Of each template: peaks so far, where the last place above the limit was, and the peak that it belongs to.
    state = np.empty((places.shape[0], 3), np.int64)
    state[:, 0], state[:, 1], state[:, 2] = 0, -POINTS, -1
    above, lanes = 0, np.empty(LANES, np.int32)
    for group in range(spectra.shape[0]):
        for template in range(templates.shape[0]):
            for antenna in range(spectra.shape[1]):
                _filter(spectra[group, antenna], templates[template], rows, turning, part, out)
                if antenna == 0:
                    power[:] = np.float32(0.0)
                above = _add_power(out, power, limits[group])
            if above > 0:
                _count_above(power, limits[group], lanes)
                for lane in range(LANES):
                    if lanes[lane] == 0:
                        continue
                    first = (group * LANES + lane) * POINTS
                    _pick(power, limits[group], lane, first, apart, places[template], shares[template], state[template])
    return state[:, 0].copy()


@kernel
def _filter(x: Real, by: Real, rows: npt.NDArray[np.int64], turning: Real, part: Real, out: Real) -> None:
    """Outputs in the order of time, LANES side by side, of one template for one antenna; part: to work in."""
    _nines(x, by, part)
    _eights(part, turning)
    _last_eights(part, rows, out)


@kernel
def _times(ar: np.float32, ai: np.float32, br: np.float32, bi: np.float32) -> tuple[np.float32, np.float32]:
    return ar * br - ai * bi, ar * bi + ai * br


@kernel
def _three(
    ar: np.float32, ai: np.float32, br: np.float32, bi: np.float32, cr: np.float32, ci: np.float32
) -> tuple[np.float32, ...]:
    """Inverse transform of three values, not divided."""
    sum_r, sum_i = br + cr, bi + ci
    mean_r, mean_i = ar - _HALF * sum_r, ai - _HALF * sum_i
    dr, di = _ROOT_3_4 * (br - cr), _ROOT_3_4 * (bi - ci)
    return ar + sum_r, ai + sum_i, mean_r - di, mean_i + dr, mean_r + di, mean_i - dr


@kernel
def _third_of_products(x: Real, by: Real, at: int, row: int) -> tuple[np.float32, ...]:
    """Inverse transform of three parts, three apart, of spectrum times template."""
    ar, ai = _times(x[at], x[at + IMAGINARY], by[row], by[row + COARSE])
    at, row = at + 3 * PART, row + 192
    br, bi = _times(x[at], x[at + IMAGINARY], by[row], by[row + COARSE])
    at, row = at + 3 * PART, row + 192
    cr, ci = _times(x[at], x[at + IMAGINARY], by[row], by[row + COARSE])
    return _three(ar, ai, br, bi, cr, ci)


@kernel
def _nines(x: Real, by: Real, y: Real) -> None:
    """Spectrum times template, and the inverse transforms over the nine parts: 3 x 3."""
    for row in range(64):
        for at in range(row * LANES, row * LANES + LANES):
            ar, ai, br, bi, cr, ci = _third_of_products(x, by, at, row)
            dr, di, er, ei, fr, fi = _third_of_products(x, by, at + PART, row + 64)
            gr, gi, hr, hi, jr, ji = _third_of_products(x, by, at + 2 * PART, row + 128)
            er, ei = _times(er, ei, _COS_1, _SIN_1)
            fr, fi = _times(fr, fi, _COS_2, _SIN_2)
            hr, hi = _times(hr, hi, _COS_2, _SIN_2)
            jr, ji = _times(jr, ji, _COS_4, _SIN_4)
            _put_three(y, at, _three(ar, ai, dr, di, gr, gi))
            _put_three(y, at + PART, _three(br, bi, er, ei, hr, hi))
            _put_three(y, at + 2 * PART, _three(cr, ci, fr, fi, jr, ji))


@kernel
def _put_three(y: Real, at: int, values: tuple[np.float32, ...]) -> None:
    y[at], y[at + IMAGINARY] = values[0], values[1]
    y[at + 3 * PART], y[at + 3 * PART + IMAGINARY] = values[2], values[3]
    y[at + 6 * PART], y[at + 6 * PART + IMAGINARY] = values[4], values[5]


@kernel
def _four(
    ar: np.float32, ai: np.float32, br: np.float32, bi: np.float32,
    cr: np.float32, ci: np.float32, dr: np.float32, di: np.float32,
) -> tuple[np.float32, ...]:  # fmt: skip
    """Inverse transform of four values, not divided."""
    er, ei, fr, fi = ar + cr, ai + ci, ar - cr, ai - ci
    gr, gi, hr, hi = br + dr, bi + di, br - dr, bi - di
    return er + gr, ei + gi, fr - hi, fi + hr, er - gr, ei - gi, fr + hi, fi - hr


@kernel
def _sum(y: Real, at: int, apart: int) -> tuple[np.float32, np.float32]:
    return y[at] + y[at + apart], y[at + IMAGINARY] + y[at + apart + IMAGINARY]


@kernel
def _difference(y: Real, at: int, apart: int) -> tuple[np.float32, np.float32]:
    return y[at] - y[at + apart], y[at + IMAGINARY] - y[at + apart + IMAGINARY]


@kernel
def _even(y: Real, at: int, apart: int) -> tuple[np.float32, ...]:
    """The even outputs of the inverse transform, not divided, of eight values of y, `apart`."""
    ar, ai = _sum(y, at, 4 * apart)
    br, bi = _sum(y, at + apart, 4 * apart)
    cr, ci = _sum(y, at + 2 * apart, 4 * apart)
    dr, di = _sum(y, at + 3 * apart, 4 * apart)
    return _four(ar, ai, br, bi, cr, ci, dr, di)


@kernel
def _odd(y: Real, at: int, apart: int) -> tuple[np.float32, ...]:
    """Its odd outputs."""
    ar, ai = _difference(y, at, 4 * apart)
    br, bi = _difference(y, at + apart, 4 * apart)
    cr, ci = _difference(y, at + 2 * apart, 4 * apart)
    dr, di = _difference(y, at + 3 * apart, 4 * apart)
    br, bi = _ROOT_HALF * (br - bi), _ROOT_HALF * (br + bi)
    dr, di = -_ROOT_HALF * (dr + di), _ROOT_HALF * (dr - di)
    return _four(ar, ai, br, bi, -ci, cr, dr, di)


@kernel
def _eights(y: Real, turning: Real) -> None:
    """In all parts the inverse transforms over eight rows, eight apart, turned for the next; in place."""
    for part in range(9):
        for column in range(8):
            at, first = 64 * part + 8 * column, part * PART + column * LANES
            for i in range(first, first + LANES):
                even, odd = _even(y, i, _ROW8), _odd(y, i, _ROW8)
                _put_turned(y, i, even, turning, at)
                _put_turned(y, i + _ROW8, odd, turning, at + 1)


@kernel
def _put_turned(y: Real, at: int, values: tuple[np.float32, ...], turning: Real, k: int) -> None:
    im = at + IMAGINARY
    y[at], y[im] = _times(values[0], values[1], turning[k], turning[k + COARSE])
    y[at + 2 * _ROW8], y[im + 2 * _ROW8] = _times(values[2], values[3], turning[k + 2], turning[k + 2 + COARSE])
    y[at + 4 * _ROW8], y[im + 4 * _ROW8] = _times(values[4], values[5], turning[k + 4], turning[k + 4 + COARSE])
    y[at + 6 * _ROW8], y[im + 6 * _ROW8] = _times(values[6], values[7], turning[k + 6], turning[k + 6 + COARSE])


@kernel
def _last_eights(y: Real, rows: npt.NDArray[np.int64], out: Real) -> None:
    """The inverse transforms over eight columns, and their outputs in the order of time."""
    for part in range(9):
        for k in range(8):
            columns, times = y[part * PART + k * _ROW8 :], out[rows[part, k] * LANES :]
            for i in range(LANES):
                even, odd = _even(columns, i, LANES), _odd(columns, i, LANES)
                _put_in_time(times, i, even)
                _put_in_time(times, i + _STRIDE72, odd)


@kernel
def _put_in_time(out: Real, at: int, values: tuple[np.float32, ...]) -> None:
    im = at + _OUT_IMAGINARY
    out[at], out[im] = values[0], values[1]
    out[at + 2 * _STRIDE72], out[im + 2 * _STRIDE72] = values[2], values[3]
    out[at + 4 * _STRIDE72], out[im + 4 * _STRIDE72] = values[4], values[5]
    out[at + 6 * _STRIDE72], out[im + 6 * _STRIDE72] = values[6], values[7]


@kernel
def _add_power(out: Real, power: Real, limits: Real) -> int:
    """Add one antenna's power at every output, and in the middle between it and the next; how often that is too much.

    Branchless, so that it is vectorised: hardly any segment holds a peak.
    """
    above = np.int32(0)
    for i in range(MIDDLES):
        real, imag = out[i], out[i + _OUT_IMAGINARY]
        here = power[i] + (real * real + imag * imag)
        real += out[i + LANES]
        imag += out[i + _OUT_IMAGINARY + LANES]
        middle = power[i + MIDDLES] + _HALF * (real * real + imag * imag)
        power[i], power[i + MIDDLES] = here, middle
        above = np.int32(above + np.int32(here > limits[i]) + np.int32(middle > limits[i + MIDDLES]))
    return int(above)


@kernel
def _count_above(power: Real, limits: Real, lanes: npt.NDArray[np.int32]) -> None:
    """How often each lane's power is too much."""
    lanes[:] = 0
    for first in range(0, POINTS * LANES, LANES):
        for lane in range(LANES):
            lanes[lane] += np.int32(power[first + lane] > limits[first + lane])


@kernel
def _pick(
    power: Real,
    limits: Real,
    lane: int,
    first: int,
    apart: int,
    places: npt.NDArray[np.int64],
    shares: Real,
    state: npt.NDArray[np.int64],
) -> None:
    """Add the peaks of one lane, whose first point is `first`, to places and their shares."""
    found, last, into = state
    for point in range(POINTS):
        i = (point % 2) * MIDDLES + (point // 2) * LANES + lane
        if not power[i] > limits[i]:
            continue
        # Of samples of no size to speak of, limits are nothing.
        share = np.float32(min(float(power[i]) / max(float(limits[i]), 1e-300), 3e38))
        if first + point - last >= apart or into < 0:
            into = found if found < places.size else int(np.argmin(shares))
            if found < places.size:
                found += 1
            elif shares[into] >= share:
                into = -1
                continue
        elif share <= shares[into]:
            continue
        places[into], shares[into], last = first + point, share, first + point
    state[0], state[1], state[2] = found, last, into
