"""An analogue-to-digital converter of few bits: I and Q each through a uniform quantiser without a level at zero.

What lies beyond full scale is clipped. Where nothing else is said, full scale is that of the least mean square error
for a Gaussian signal (J. Max, "Quantizing for minimum distortion", IRE Trans. Inf. Theory 6, 1960, table II).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import ndtr

Complex = npt.NDArray[np.complex128]
Real = npt.NDArray[np.float64]


def quantised(
    samples: npt.ArrayLike, bits: int, *, loading_db: float | None = None, rms: float | None = None
) -> Complex:
    """Samples as a converter of `bits` bits for I and for Q gives them; shape kept.

    loading_db: full scale of a component over its rms; None takes `best_full_scale`. rms: of the complex samples, that
    an automatic gain control would hold; None measures it over all of them.
    """
    given = np.asarray(samples, np.complex128)
    mean = rms if rms is not None else (float(np.sqrt(np.mean(np.abs(given) ** 2))) if given.size else 0.0)
    if mean == 0:
        return given.copy()
    full_scale = best_full_scale(bits) if loading_db is None else 10 ** (loading_db / 20)
    limit = full_scale * mean / np.sqrt(2)
    return np.asarray(_rounded(given.real, bits, limit) + 1j * _rounded(given.imag, bits, limit))


def _rounded(values: Real, bits: int, limit: float) -> Real:
    """The nearest of 2^bits levels, (k + 1/2) steps from -limit to limit."""
    step = 2 * limit / 2**bits
    highest = 2 ** (bits - 1) - 1
    return np.asarray((np.clip(np.floor(values / step), -highest - 1, highest) + 0.5) * step)


@lru_cache(maxsize=32)
def best_full_scale(bits: int) -> float:
    """Full scale, over the standard deviation, at which a Gaussian signal is quantised with the least error."""
    # Steps shrink less than by half with each bit: full scale grows, by a fifth at most.
    found = minimize_scalar(
        lambda scale: gaussian_distortion(bits, scale),
        bounds=(1.0, 1.6 + 0.6 * bits),
        method="bounded",
        options={"xatol": 1e-7},
    )
    return float(found.x)


def gaussian_distortion(bits: int, full_scale: float) -> float:
    """Mean square error of a unit Gaussian that is quantised with this full scale, in closed form."""
    step = 2 * full_scale / 2**bits
    edges = step * np.arange(2 ** (bits - 1) + 1, dtype=np.float64)
    edges[-1] = np.inf
    levels = step * (np.arange(2 ** (bits - 1)) + 0.5)
    density = np.exp(-(edges**2) / 2) / np.sqrt(2 * np.pi)
    # E x^2 - 2 E x q + E q^2, by cells of the positive half; differences of tails keep their digits.
    cell = ndtr(-edges[:-1]) - ndtr(-edges[1:])
    moment = density[:-1] - density[1:]
    return float(1 + 2 * np.sum(levels**2 * cell - 2 * levels * moment))
