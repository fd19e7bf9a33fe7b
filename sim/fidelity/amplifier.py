"""A power amplifier that saturates: the Rapp model, with a phase that depends on the amplitude if asked for.

C. Rapp, "Effects of HPA-nonlinearity on a 4-DPSK/OFDM-signal for a digital sound broadcasting system", Proc. 2nd
European Conference on Satellite Communications, 1991. The AM/PM curve A x^q / (1 + (x / B)^q) is that of the modified
Rapp model of millimetre-wave amplifiers: A B^q is am_pm_deg, B am_pm_knee times the saturation's input amplitude.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sim.fidelity.knobs import AmplifierSettings

Complex = npt.NDArray[np.complex128]
Real = npt.NDArray[np.float64]


def am_am(amplitude: npt.ArrayLike, smoothness: float) -> Real:
    """Output amplitude over saturation, for an input amplitude over that of saturation; shape kept."""
    level = np.asarray(amplitude, np.float64)
    # x / (1 + x^2p)^(1/2p), by logarithms: x^2p has no place in a double where p is large.
    with np.errstate(divide="ignore"):
        power = 2 * smoothness * np.log(level)
    return np.asarray(level * np.exp(-np.logaddexp(0.0, power) / (2 * smoothness)))


def am_pm_rad(amplitude: npt.ArrayLike, settings: AmplifierSettings) -> Real:
    """Phase that the amplifier adds at an input amplitude over that of saturation; shape kept."""
    ratio = (np.asarray(amplitude, np.float64) / settings.am_pm_knee) ** settings.am_pm_order
    return np.asarray(np.radians(settings.am_pm_deg) * (1 - 1 / (1 + ratio)))


def amplified(samples: npt.ArrayLike, settings: AmplifierSettings, rms: float | None = None) -> Complex:
    """Samples [..., S] behind one amplifier per row, of gain 1 at low level.

    rms: amplitude that `backoff_db` counts from; None takes that of all samples, so that all rows are backed off alike.
    """
    given = np.asarray(samples, np.complex128)
    mean = rms if rms is not None else root_mean_square(given)
    if mean == 0 or given.size == 0:
        return given.copy()
    saturation = mean * 10 ** (settings.backoff_db / 20)
    level = np.abs(given) / saturation
    out = am_am(level, settings.smoothness) * saturation * np.exp(1j * (np.angle(given) + am_pm_rad(level, settings)))
    return np.asarray(out)


def root_mean_square(samples: Complex) -> float:
    """Of the amplitudes of all samples; 0 where there are none."""
    return float(np.sqrt(np.mean(np.abs(samples) ** 2))) if samples.size else 0.0


def error_vector_magnitude(sent: npt.ArrayLike, received: npt.ArrayLike) -> float:
    """rms of what is left of `received` without its best complex multiple of `sent`, over the rms of that multiple."""
    reference, found = np.ravel(np.asarray(sent, np.complex128)), np.ravel(np.asarray(received, np.complex128))
    gain = np.vdot(reference, found) / np.vdot(reference, reference)
    return float(np.linalg.norm(found - gain * reference) / np.linalg.norm(gain * reference))
