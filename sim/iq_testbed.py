"""The simulated testbed as a radio hears it: bursts of IQ instead of channel frames.

Once a block the radio hears most of a slot: the cell's own SSB, and behind it the PUSCH of all users on the same
resource blocks, each through its own channel under the RIS state on air. Users report where they believe they are
in `FeedbackFrame`s beside it. Nothing tells the receiver what the channels were.

What is simplified: channels stand still for the burst (a walker moves by micrometres), and a symbol is filtered by
itself, which is exact while delays stay inside the cyclic prefix.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ingest.errors import UsageRefused
from ingest.messages import FeedbackFrame, IqBlock, Message, no_array
from ingest.nr import pbch
from ingest.nr.ofdm import Carrier
from ingest.nr.ssb_patterns import case_of
from sim.channels import SiteChannels
from sim.iq_radio import (
    RATE_HZ,
    SCS_HZ,
    SLOT,
    SSB_SYMBOLS,
    UPLINK_SYMBOLS,
    BandPlan,
    Chains,
    FewTones,
    Oscillator,
    RadioSettings,
    plan_band,
)
from sim.nr_waveform import SSB_PRBS, OfdmModulator, shared_channel, ssb_elements, ssb_slot
from sim.testbed import Testbed, TestbedSettings

Complex = npt.NDArray[np.complex128]
Samples = npt.NDArray[np.complex64]

RADIO = "radio"
NO_CODEC = "none"
"""Of a `FeedbackFrame` that only reports a position."""

_LEAST_GAIN = 1e-30
_FRAME_S = 10e-3
_SFN_COUNT = 1024
_MARGIN = 64
"""Samples of the burst before its slot and after it."""

_FIRST_FRAME = 10_000
"""Sample in which the first frame starts: a block's frame stays in its block for days, whichever clock is slower."""


class IqTestbed(Testbed):
    """A `Testbed` whose `measure` yields position reports and one `IqBlock`.

    band: what lies where. Outcomes are scored over the resource block in the middle of the carrier. Raises
    `UsageRefused` where blocks are no multiple of a frame, or `plan_band` does.
    """

    SENDS_IQ = True

    def __init__(self, world: SiteChannels, settings: TestbedSettings, radio: RadioSettings | None = None) -> None:
        super().__init__(world, settings)
        radio = radio or RadioSettings()
        frames = settings.period_s / _FRAME_S
        if round(frames) < 1 or abs(frames - round(frames)) > 1e-9:
            raise UsageRefused(f"blocks of {settings.period_s} s", where="simulated IQ", mend="10 ms or a multiple")
        self.band: BandPlan = plan_band(world.carrier_hz, settings.users)
        self.radio = radio
        self.chains = Chains.made(radio, world.antennas, settings.seed)
        self._frames_per_block = round(frames)
        self._scored_hz = self.band.middle_tones_hz
        rng = np.random.default_rng([settings.seed, 0x19])
        self._oscillators = [Oscillator(radio, child) for child in rng.spawn(settings.users)]
        self._sent_rng, self._hiss_rng = rng.spawn(2)
        self._pusch = OfdmModulator(self.band.carrier, RATE_HZ, self.band.center_hz)
        self._ssb = OfdmModulator(Carrier(SCS_HZ, SSB_PRBS, self.band.ssb_hz), RATE_HZ, self.band.center_hz)
        self._tones = FewTones(self.band.tones_hz, self._world.latest_s)
        self._rows = [sorted(self.band.ports).index(port) for port in self.band.ports]
        self._burst_end = 0
        self._most_dbm = float(settings.user_power_dbm - 10 * np.log10(self.band.carrier.subcarriers))
        self._sent_dbm: list[float] = []

    def user_name(self, index: int) -> str:
        return self.band.user_name(index)

    def measure(self, t_ns: int) -> list[Message]:
        """What comes in at the block's beginning: where users believe they are, then the burst."""
        channels = [self.channel(index) for index in range(self.settings.users)]
        self._sent_dbm = self._controlled(channels)
        reports: list[Message] = [self._report(index, t_ns) for index in range(self.settings.users)]
        return [*reports, self._burst(channels, t_ns)]

    def channel(self, index: int) -> Complex:
        """The true channel [N, S] of a user on every subcarrier of the PUSCH, as of now."""
        few = self._world.effective_cfr(self._walks[index].position_m, self._theta, self._tones.few_hz)
        return self._tones.spread(few)

    def _controlled(self, channels: list[Complex]) -> list[float]:
        """What every user sends a resource element with: what its path loss asks for, as far as its power goes."""
        wanted_dbm = [
            min(self.radio.wanted_dbm - 10 * np.log10(max(np.mean(np.abs(one) ** 2), _LEAST_GAIN)), self._most_dbm)
            for one in channels
        ]
        if not self._sent_dbm:
            return [float(one) for one in wanted_dbm]
        step = 1 - np.exp(-self.settings.period_s / self.radio.power_control_s)
        return [float(sent + step * (wanted - sent)) for sent, wanted in zip(self._sent_dbm, wanted_dbm, strict=True)]

    def _advance(self, seconds: float) -> None:
        super()._advance(seconds)
        for oscillator in self._oscillators:
            oscillator.advance(seconds)

    def _report(self, index: int, t_ns: int) -> FeedbackFrame:
        position_m, velocity_m_s = self._told(index)
        return FeedbackFrame(
            source="testbed",
            epoch=0,
            seq=self._next_seq(FeedbackFrame.TOPIC),
            t_ns=t_ns,
            user=self.user_name(index),
            block=self.block,
            codec=NO_CODEC,
            position_m=position_m,
            velocity_m_s=velocity_m_s,
            sent_dbm=self._sent_dbm[index],
            codeword=no_array(0, dtype=np.float32),
            powers_dbm=no_array(0, dtype=np.float32),
            ris_pattern=no_array(0),
        )

    def _burst(self, channels: list[Complex], t_ns: int) -> IqBlock:
        clock = 1.0 + self.radio.clock_ppm * 1e-6
        start = _FIRST_FRAME + self.block * self.settings.period_s * RATE_HZ * clock
        begin, samples = self._samples(channels, int(start), start - int(start))
        first, before = int(start) + begin, self._burst_end
        self._burst_end = first + samples.shape[1]
        return IqBlock(
            source=RADIO,
            epoch=0,
            seq=self._next_seq(IqBlock.TOPIC),
            t_ns=t_ns,
            rate_hz=RATE_HZ,
            center_hz=self.band.center_hz,
            first_sample=first,
            skipped=first - before,
            samples=samples,
        )

    def _samples(self, channels: list[Complex], frame_sample: int, fraction: float) -> tuple[int, Samples]:
        """The burst [N, T] of a frame that starts `fraction` of a sample after `frame_sample` of the stream.

        Before it, how many samples after that it begins.
        """
        late_s = fraction / RATE_HZ
        ssb_first, ssb = self._ssb_samples(late_s)
        first, users = self._user_samples(channels, late_s)
        begin = -_MARGIN  # receivers take slots from their first symbol on
        length = first + users.shape[1] + _MARGIN - begin
        air = np.zeros((self._world.antennas, length), np.complex64)
        air[:, ssb_first - begin :][:, : ssb.shape[1]] = self.chains.ssb.astype(np.complex64)[:, None] * ssb
        air[:, first - begin :][:, : users.shape[1]] = users
        # The radio tunes by the clock that it samples with: what it hears turns the other way.
        cycles = -self.radio.clock_ppm * 1e-6 * self.band.center_hz / RATE_HZ
        places = np.arange(length) + (frame_sample + begin)
        air *= np.exp(2j * np.pi * np.mod(cycles * places, 1.0)).astype(np.complex64)
        settings = self.settings
        hiss_dbm = settings.bs_noise_dbm - 10 * np.log10(settings.bandwidth_hz / SCS_HZ)
        hiss = self._hiss_rng.standard_normal((len(air), 2 * length), np.float32).view(np.complex64)
        hiss *= np.float32(10 ** (hiss_dbm / 20) / np.sqrt(2))
        air += hiss
        air *= self.chains.gains.astype(np.complex64)[:, None]
        return begin, self._chains.heard(air, RATE_HZ)

    def _ssb_samples(self, late_s: float) -> tuple[int, Samples]:
        """First sample after the frame's start, and samples [1, T], of the slot with the SSB, `late_s` late."""
        sfn = self.block * self._frames_per_block % _SFN_COUNT
        above_3_ghz = self.band.ssb_hz > 3e9
        l_max = 8 if above_3_ghz else 4
        elements = ssb_elements(self.band.pci, 0, l_max, pbch.message(self.band.pci, l_max, sfn=sfn))
        slot, grid = ssb_slot(case_of(SCS_HZ, self.band.ssb_hz), l_max, 0, elements, SCS_HZ)
        assert slot == SLOT
        return self._ssb.slot(slot, grid * self._ramp(self._ssb.carrier, late_s), SSB_SYMBOLS)

    def _user_samples(self, channels: list[Complex], late_s: float) -> tuple[int, Samples]:
        """First sample after the frame's start, and samples [N, T], of the slot in which the users send."""
        carrier = self.band.carrier
        sent = shared_channel(carrier, SLOT, self.band.signal, self._sent_rng, symbols=UPLINK_SYMBOLS)[self._rows]
        grids = np.stack(
            [
                (channel * (10 ** (dbm / 20) * self._ramp(carrier, oscillator.late_s + late_s)))[:, None] * elements
                for channel, dbm, oscillator, elements in zip(
                    channels, self._sent_dbm, self._oscillators, sent, strict=True
                )
            ]
        )
        users, antennas = grids.shape[:2]
        first, samples = self._pusch.slot(
            SLOT, grids.reshape(-1, *grids.shape[2:]).astype(np.complex64), UPLINK_SYMBOLS
        )
        turns = np.stack([self._turn(one, first, samples.shape[1]) for one in self._oscillators])
        return first, np.einsum("ut,uat->at", turns, samples.reshape(users, antennas, -1))

    def _ramp(self, carrier: Carrier, late_s: float) -> Complex:
        """What a delay makes of the carrier's subcarriers as they lie in the sampled band."""
        offsets_hz = carrier.tones_hz(np.arange(carrier.subcarriers)) + carrier.carrier_hz - self.band.center_hz
        return np.asarray(np.exp(-2j * np.pi * offsets_hz * late_s))

    @staticmethod
    def _turn(oscillator: Oscillator, first: int, length: int) -> Samples:
        times_s = np.arange(first, first + length) / RATE_HZ
        turn = oscillator.phase_rad + 2 * np.pi * oscillator.cfo_hz * times_s
        return np.asarray(np.exp(1j * turn), np.complex64)
