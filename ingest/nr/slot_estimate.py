"""What comes of one slot's pilots: an estimate, or why there is none."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

Complex64 = npt.NDArray[np.complex64]
Real = npt.NDArray[np.float64]


class SlotEstimate(msgspec.Struct, frozen=True, eq=False):
    """What one slot's pilots told of G ports, seen by A antennas.

    cfr [G, A, O]: LMMSE channel on the output tones, at the middle of the pilot symbols. taps [G, A, O]: its impulse
    response, delay 0 in the middle; none where the tones are uneven. error_power [G]: expected squared error per entry
    of cfr. ls [A, L, S]: received pilots over what port 0 sent; with one port the least-squares
    channel. noise_power: per resource element. snr_db [G]: per resource element. cfo_hz: carrier offset over all
    antennas, on top of what was taken out before. delay_s, delay_spread_s [G]: mean and RMS by the prior. doppler_hz:
    maximum Doppler shift of a Clarke spectrum, None until it is known. k_factor_db [G]: steady power over fading power,
    None until enough fading was seen, -10 for any less. confidence: share of the received energy that is
    no noise, 0 to 1.
    """

    cfr: Complex64
    taps: Complex64
    error_power: Real
    ls: Complex64
    noise_power: float
    snr_db: Real
    cfo_hz: float
    delay_s: Real
    delay_spread_s: Real
    doppler_hz: float | None
    k_factor_db: Real | None
    confidence: float


@dataclass(frozen=True)
class Refusal:
    """Why a slot yields no estimate: "absent" where no more than noise was received, else "contradicted"."""

    reason: str
