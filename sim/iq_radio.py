"""The radio of a simulated testbed: which band it hears, what its chains make of it, and how oscillators wander.

What both sides of the wire must agree on stands in `BandPlan`: the testbed sends by it, a receiver is configured by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ingest.antenna_calibration import SCHEMA, AntennaCalibration
from ingest.errors import UsageRefused
from ingest.nr.dmrs import PuschDmrs
from ingest.nr.numerology import FR1_MAX_HZ
from ingest.nr.ofdm import PRB_SUBCARRIERS, Carrier
from ingest.nr.raster import sync_raster_hz
from sim.nr_waveform import SSB_PRBS

Complex = npt.NDArray[np.complex128]
Real = npt.NDArray[np.float64]

SCS_HZ = 30e3
RATE_HZ = 7.68e6
SIGNAL = "ue"
"""The reference signal that all users share; a user is called by it and its port."""

SLOT = 0
"""The slot in the frame that carries something: the SSB in its first half, the PUSCH in its second."""

SSB_SYMBOLS, UPLINK_SYMBOLS = range(2, 6), range(7, 14)
"""Of `SLOT`. Case C, the first SSB (38.213 clause 4.1); then a symbol of guard."""

_MOST_PRBS = 19
"""An odd number: then a resource block lies in the middle, around the carrier frequency that channels are of."""

_MORE_TONES, _DELAYS_PER_TONE = 10, 8

_GUARD_HZ = 2 * SCS_HZ
_SINGLE_PORTS, _DOUBLE_PORTS = (0, 2, 1, 3), (0, 2, 1, 3, 4, 6, 5, 7)
"""Ports in the order in which users get them: first one in each CDM group, then another by its cover."""


@dataclass(frozen=True)
class BandPlan:
    """What lies where in the band of `RATE_HZ` around center_hz.

    carrier: of the users' PUSCH, around the site's carrier frequency. ssb_hz: raster position of the cell's SSB. pci:
    of the cell. users: how many share the PUSCH.
    """

    carrier: Carrier
    center_hz: float
    ssb_hz: float
    pci: int
    users: int

    @cached_property
    def signal(self) -> PuschDmrs:
        """Half a slot (mapping type B) with two symbols of DMRS, side by side where four ports are not enough."""
        double = self.users > len(_SINGLE_PORTS)
        return PuschDmrs(
            mapping="B",
            start_symbol=UPLINK_SYMBOLS.start,
            symbol_count=len(UPLINK_SYMBOLS),
            ports=tuple(sorted(self.ports)),
            length=2 if double else 1,
            additional_positions=0 if double else 1,
            n_id=(self.pci, self.pci),
            slots=(SLOT,),
        )

    @property
    def ports(self) -> tuple[int, ...]:
        """Port of each user."""
        return (_SINGLE_PORTS if self.users <= len(_SINGLE_PORTS) else _DOUBLE_PORTS)[: self.users]

    def user_name(self, index: int) -> str:
        """What a receiver calls the user of that index."""
        return f"{SIGNAL}.{self.ports[index]}"

    @property
    def tones_hz(self) -> Real:
        """Every subcarrier of the PUSCH, as offsets from the site's carrier."""
        return self.carrier.tones_hz(np.arange(self.carrier.subcarriers))

    @property
    def middle_tones_hz(self) -> Real:
        """The subcarriers of the resource block in the middle: what is designed for and scored."""
        first = self.carrier.prbs // 2 * PRB_SUBCARRIERS
        return self.carrier.tones_hz(np.arange(first, first + PRB_SUBCARRIERS))


def plan_band(carrier_hz: float, users: int, pci: int = 500) -> BandPlan:
    """A PUSCH around carrier_hz and an SSB on the nearest raster position, both in the band that is sampled.

    `UsageRefused` where there are more users than DMRS have ports, or no SSB can lie near enough.
    """
    if not 1 <= users <= len(_DOUBLE_PORTS):
        raise UsageRefused(
            f"{users} users", where="simulated IQ", mend=f"DMRS tell 1 to {len(_DOUBLE_PORTS)} users apart"
        )
    half_ssb_hz = SSB_PRBS * PRB_SUBCARRIERS * SCS_HZ / 2
    near = [] if carrier_hz > FR1_MAX_HZ else sync_raster_hz(carrier_hz - RATE_HZ / 2, carrier_hz + RATE_HZ / 2)
    for ssb_hz in sorted(near, key=lambda each: abs(each - carrier_hz))[:1]:
        for prbs in range(_MOST_PRBS, 0, -2):
            half_hz = prbs * PRB_SUBCARRIERS * SCS_HZ / 2
            low_hz = min(ssb_hz - half_ssb_hz, carrier_hz - half_hz)
            high_hz = max(ssb_hz + half_ssb_hz, carrier_hz + half_hz)
            if high_hz - low_hz <= RATE_HZ - _GUARD_HZ:
                center_hz = float(round((low_hz + high_hz) / 2 / SCS_HZ) * SCS_HZ)
                return BandPlan(Carrier(SCS_HZ, prbs, carrier_hz), center_hz, ssb_hz, pci, users)
    raise UsageRefused(
        f"no SSB of {SCS_HZ / 1e3:g} kHz lies within {RATE_HZ / 1e6:g} MHz of the carrier",
        where=f"simulated IQ at {carrier_hz / 1e9:g} GHz",
        mend="a site below 7.125 GHz, or the testbed's channel frames",
    )


class FewTones:
    """Tells a channel on every tone from few of them, which is what costs: exact to some -80 dB.

    Over a band B, paths of delays 0 to latest_s span little more than B latest_s dimensions; the weights of the few are
    the least-squares solution over all such delays. tones_hz [S]: wanted. few_hz [s]: what to work out.
    """

    def __init__(self, tones_hz: Real, latest_s: float) -> None:
        low_hz, high_hz = float(tones_hz[0]), float(tones_hz[-1])
        count = min(int(np.ceil((high_hz - low_hz) * latest_s)) + _MORE_TONES, len(tones_hz))
        nodes = -np.cos(np.pi * (np.arange(count) + 0.5) / count)  # denser towards the ends, as of polynomials
        self.few_hz: Real = (low_hz + high_hz) / 2 + nodes * (high_hz - low_hz) / 2
        delays_s = np.linspace(0.0, latest_s, _DELAYS_PER_TONE * count)
        known, wanted = (np.exp(-2j * np.pi * np.outer(each, delays_s)) for each in (self.few_hz, tones_hz))
        # Of a product with its own adjoint the least values are rounding: those would be divided by.
        self._weights = np.asarray(np.linalg.lstsq(known.T, wanted.T, rcond=1e-9)[0], np.complex128)

    def spread(self, channel: Complex) -> Complex:
        """The channel [N, S] that is [N, s] at few_hz."""
        return np.asarray(channel @ self._weights)


@dataclass(frozen=True)
class RadioSettings:
    """What the radio and the users' oscillators are like.

    gain_db: from the square root of a milliwatt to a sample. gain_sigma_db: of its chains about that; their phases are
    anywhere. clock_ppm: of its clock, which samples and tunes, against the cell's. ssb_dbm: of the cell's SSB in a
    resource element, at one of its antennas. wanted_dbm: what users aim at there by their power control, which follows
    their path loss in power_control_s. cfo_sigma_hz, timing_sigma_s: of users' carriers and of their timing advance,
    which wander with the correlation times beside them.
    """

    gain_db: float = 75.0
    gain_sigma_db: float = 0.7
    clock_ppm: float = 0.01
    ssb_dbm: float = -99.0
    wanted_dbm: float = -99.0
    power_control_s: float = 0.5
    cfo_sigma_hz: float = 30.0
    cfo_correlation_s: float = 5.0
    timing_sigma_s: float = 50e-9
    timing_correlation_s: float = 3.0


@dataclass(frozen=True, eq=False)
class Chains:
    """The radio's receive chains: gains [N], and what its own SSB arrives with, ssb [N], both complex amplitudes."""

    gains: Complex
    ssb: Complex

    @classmethod
    def made(cls, radio: RadioSettings, antennas: int, seed: int) -> Chains:
        """The chains that a seed stands for."""
        rng = np.random.default_rng([seed, 0x10])
        gains_db = radio.gain_db + radio.gain_sigma_db * rng.normal(size=antennas)
        gains = 10 ** (gains_db / 20) * np.exp(2j * np.pi * rng.random(antennas))
        ssb = 10 ** (radio.ssb_dbm / 20) * np.exp(2j * np.pi * rng.random(antennas))
        return cls(gains, ssb)

    def calibration(self, center_hz: float) -> AntennaCalibration:
        """What divides the chains out again: frames are then in square roots of a milliwatt."""
        sizes_db = 20 * np.log10(np.abs(self.gains))
        return AntennaCalibration(
            format=SCHEMA,
            gains_db=tuple(float(one) for one in sizes_db),
            phases_rad=tuple(float(one) for one in np.angle(self.gains)),
            center_hz=center_hz,
            made_from="the simulated radio",
        )


class Wander:
    """A Gauss-Markov value of standard deviation `sigma` that forgets itself in `correlation_s`."""

    def __init__(self, sigma: float, correlation_s: float, rng: np.random.Generator) -> None:
        self._sigma, self._correlation_s, self._rng = sigma, correlation_s, rng
        self.value = float(sigma * rng.normal())

    def advance(self, seconds: float) -> None:
        """Go on by `seconds`."""
        keep = float(np.exp(-seconds / self._correlation_s))
        self.value = keep * self.value + float(np.sqrt(1 - keep**2) * self._sigma * self._rng.normal())


class Oscillator:
    """A user's carrier and timing advance against the cell's clock: cfo_hz, phase_rad, late_s."""

    def __init__(self, radio: RadioSettings, rng: np.random.Generator) -> None:
        self._cfo = Wander(radio.cfo_sigma_hz, radio.cfo_correlation_s, rng)
        self._late = Wander(radio.timing_sigma_s, radio.timing_correlation_s, rng)
        self.phase_rad = float(2 * np.pi * rng.random())

    @property
    def cfo_hz(self) -> float:
        return self._cfo.value

    @property
    def late_s(self) -> float:
        return self._late.value

    def advance(self, seconds: float) -> None:
        """Go on by `seconds`; the phase turns on with the carrier."""
        self.phase_rad = float(np.mod(self.phase_rad + 2 * np.pi * self.cfo_hz * seconds, 2 * np.pi))
        self._cfo.advance(seconds)
        self._late.advance(seconds)
