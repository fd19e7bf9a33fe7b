"""What the knobs of a world do in a testbed that plays in it: the base station's chains, and what users report.

Mismatch of elements and field of view are in the world's channels already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ingest.errors import UsageRefused
from sim.fidelity.amplifier import amplified
from sim.fidelity.hardware import Hardware
from sim.fidelity.knobs import AmplifierSettings, HardwareSettings, PositionSettings
from sim.fidelity.position import position_error
from sim.mobility import PositionError

Complex = npt.NDArray[np.complex128]
Real = npt.NDArray[np.float64]

_SYMBOLS = 2048
"""Per user, by which an amplifier's distortion is measured: its power is then known to some 2 %."""

_BY_CHANNELS = {"mismatch_gain_db": 0.0, "mismatch_phase_deg": 0.0, "field_of_view_deg": None}


@dataclass(frozen=True, eq=False)
class OnAir:
    """What antennas radiate of a precoder: precoder [N, K], behind amplifiers, and samples [N, S] of distortion."""

    precoder: Complex
    spilt: Complex

    @classmethod
    def of(cls, precoder: npt.ArrayLike, amplifier: AmplifierSettings | None) -> OnAir:
        """Gaussian symbols of all users through the amplifiers: the best linear fit, and what it leaves.

        What it leaves is uncorrelated with all symbols, as by Bussgang's theorem (J. J. Bussgang, MIT RLE technical
        report 216, 1952). All of it counts as in the band, of which clipping throws some outside.
        """
        wanted = np.asarray(precoder, np.complex128)
        antennas, users = wanted.shape
        if amplifier is None or users == 0:
            return cls(wanted, np.zeros((antennas, 0), np.complex128))
        rng = np.random.default_rng(0)
        symbols = (rng.normal(size=(users, _SYMBOLS)) + 1j * rng.normal(size=(users, _SYMBOLS))) / np.sqrt(2)
        sent = amplified(wanted @ symbols, amplifier)
        linear = np.asarray(np.linalg.lstsq(symbols.T, sent.T, rcond=None)[0].T, np.complex128)
        return cls(linear, sent - linear @ symbols)

    def spilt_power(self, channel: Complex) -> Real:
        """Power of the distortion behind a channel [N, S]. Shape [S]."""
        if not self.spilt.size:
            return np.zeros(channel.shape[1])
        return np.asarray(np.mean(np.abs(self.spilt.T @ channel) ** 2, axis=0))


class BaseStationChains:
    """The base station's chains in a testbed: what is heard, what is radiated, and how its oscillators drift.

    iq: whether the testbed sends samples. Else `UsageRefused` for knobs that only samples show. seed: the testbed's.
    """

    def __init__(self, settings: HardwareSettings, antennas: int, seed: int, *, iq: bool) -> None:
        if not iq:
            _refuse_unseen(settings)
        left = settings.model_copy(update=_BY_CHANNELS)
        self._settings = settings
        self._hardware = Hardware(left, antennas, np.random.default_rng([settings.seed, seed]))
        self._ahead_s = 0.0

    def advance(self, seconds: float) -> None:
        """Let time pass; what samples took of it has passed already."""
        left_s = max(seconds - self._ahead_s, 0.0)
        self._ahead_s = max(self._ahead_s - seconds, 0.0)
        self._hardware.advance(left_s)

    def channel(self, h: Complex) -> Complex:
        """A channel [..., N, S] by the oscillators' present phases."""
        if not self._settings.linewidth_hz:
            return h
        return np.asarray(np.moveaxis(self._hardware.channel(np.moveaxis(h, -2, -1)), -1, -2))

    def heard(self, samples: npt.NDArray[np.complexfloating], sample_rate_hz: float) -> npt.NDArray[np.complex64]:
        """What converters give of samples [N, T] at the antennas."""
        settings = self._settings
        if not settings.linewidth_hz and settings.adc_bits is None:
            return samples.astype(np.complex64, copy=False)
        if settings.linewidth_hz:
            self._ahead_s += samples.shape[1] / sample_rate_hz
        return self._hardware.received(samples, sample_rate_hz).astype(np.complex64)

    def on_air(self, precoder: npt.ArrayLike) -> OnAir:
        """What is radiated of a precoder [N, K]."""
        return OnAir.of(precoder, self._settings.amplifier)


def _refuse_unseen(settings: HardwareSettings) -> None:
    where = "[world] hardware of a testbed of channel frames"
    if settings.adc_bits is not None:
        raise UsageRefused("adc_bits acts on samples", where=where, mend="demo --iq, or leave it out")
    if settings.linewidth_hz and not settings.own_oscillators:
        raise UsageRefused(
            "an oscillator that all antennas share turns all channels alike, which a frame does not show",
            where=where,
            mend="demo --iq, own_oscillators, or no linewidth_hz",
        )


def position_errors(
    settings: PositionSettings, seed: int, usual: tuple[float, float], rngs: Sequence[np.random.Generator]
) -> list[PositionError]:
    """Of each user, for whom there is one of `rngs`: the knob's where it is turned.

    usual: sigma_m and correlation_s where it is not. seed: the testbed's. With `common` all users err alike.
    """
    if not settings.sigma_m:
        return [PositionError(*usual, rng) for rng in rngs]
    seeds = np.random.SeedSequence([settings.seed, seed])
    each = [seeds] * len(rngs) if settings.common else seeds.spawn(len(rngs))
    return [position_error(settings, np.random.default_rng(one)) for one in each]
