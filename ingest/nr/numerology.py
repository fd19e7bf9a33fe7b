"""NR's OFDM numbers around the SS/PBCH block (38.211 clauses 4.3, 5.3.1 and 7.4.3; 38.213 clause 4.1)."""

from __future__ import annotations

SSB_SUBCARRIERS = 240
SSB_SYMBOLS = 4
SSB_FFT = 256
"""FFT length in which the SSB is handled: the smallest power of two that holds its 240 subcarriers."""

SSB_CP = 18
"""Cyclic prefix in samples at `SSB_FFT`: 144 kappa 2^-mu of a 2048-point FFT. The longer prefix that begins
every half subframe never falls inside an SSB for the first symbols of cases A, B and C."""

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


def max_ssb_per_half_frame(ssb_center_hz: float) -> int:
    """L_max (38.213 clause 4.1, for cases A, B and paired C): 4 up to 3 GHz, 8 in the rest of FR1, else 64."""
    if ssb_center_hz <= 3e9:
        return 4
    return 8 if ssb_center_hz <= FR1_MAX_HZ else 64
