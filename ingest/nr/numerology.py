"""NR's OFDM numbers around the SS/PBCH block (38.211 clauses 4.3, 5.3.1 and 7.4.3; 38.213 clause 4.1)."""

from __future__ import annotations

SSB_SUBCARRIERS = 240
SSB_SYMBOLS = 4
SSB_FFT = 256
"""FFT length in which the SSB is handled: the smallest power of two that holds its 240 subcarriers."""

SSB_CP = 18
"""Cyclic prefix in samples at `SSB_FFT`: 144 kappa 2^-mu of a 2048-point FFT. No pattern puts an SSB on a symbol with
the longer prefix that begins every half subframe (`ssb_patterns`)."""

SSB_SYMBOL = SSB_FFT + SSB_CP
SSB_SAMPLES = SSB_SYMBOLS * SSB_SYMBOL

SYNC_SUBCARRIERS = 127
SYNC_FIRST_SUBCARRIER = 56
"""PSS and SSS lie on subcarriers 56 to 182 of the block (38.211 table 7.4.3.1-1)."""

FR1_MAX_HZ = 7.125e9
"""Upper end of frequency range 1 (38.104 table 5.1-1)."""


def ssb_spacings_hz(center_hz: float) -> tuple[float, ...]:
    """Subcarrier spacings that an SSB may have at `center_hz` (38.104 table 5.4.3.3-1)."""
    return (15e3, 30e3) if center_hz <= FR1_MAX_HZ else (120e3, 240e3)


def ssb_sample_rate_hz(scs_hz: float) -> float:
    """The rate at which an SSB of spacing `scs_hz` is handled."""
    return SSB_FFT * scs_hz


_UNPAIRED_HZ = ((1.88e9, 1.92e9), (2.01e9, 2.025e9), (2.3e9, 2.4e9), (2.496e9, 2.69e9))
"""TDD bands between 1.88 and 3 GHz whose SSBs may have 30 kHz (38.104 tables 5.2-1 and 5.4.3.3-1): n39, n34, n40, n41
with n38. No FDD band has 30 kHz SSBs there."""


def max_ssb_per_half_frame(ssb_center_hz: float, scs_hz: float) -> int:
    """L_max (38.213 clause 4.1): 4 up to 3 GHz, 8 in the rest of FR1, else 64.

    Pattern C, the one of 30 kHz in TDD bands, has 8 already from 1.88 GHz (since Release 16).
    """
    if ssb_center_hz > FR1_MAX_HZ:
        return 64
    return 8 if ssb_center_hz > 3e9 or (scs_hz == 30e3 and is_unpaired_30_khz(ssb_center_hz)) else 4


def is_unpaired_30_khz(ssb_center_hz: float) -> bool:
    """Whether an SSB of 30 kHz up to 3 GHz lies in a TDD band, which decides its pattern."""
    return any(low_hz <= ssb_center_hz <= high_hz for low_hz, high_hz in _UNPAIRED_HZ)
