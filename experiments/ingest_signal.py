"""What the receiver's benches listen to: a cell's SSB every 20 ms and a PUSCH in every slot, over fading antennas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ingest.nr import pbch
from ingest.nr.dmrs import PuschDmrs
from ingest.nr.ofdm import PRB_SUBCARRIERS, Carrier
from ingest.nr.raster import candidates_hz
from sim.nr_waveform import SSB_PRBS, OfdmModulator, shared_channel, ssb_elements, ssb_slot

SCS_HZ = 30e3
PERIOD_S = 20e-3
PCI = 500
_SNR_DB = 20.0
_TAPS, _DELAY_SPREAD_S = 12, 100e-9
_PEAK = 8.0
"""Full scale over the root mean square of an antenna, so that 16-bit integers hold all of it."""


@dataclass(frozen=True, eq=False)
class Ring:
    """20 ms of a stream [A, T], to be repeated without a seam; the frame number that its SSB tells repeats with it."""

    rate_hz: float
    center_hz: float
    carrier: Carrier
    signal: PuschDmrs
    samples: npt.NDArray[np.complex64]

    @property
    def slot_samples(self) -> int:
        return round(self.rate_hz * 0.5e-3)

    def from_slot(self, first: int, length: int) -> npt.NDArray[np.complex64]:
        """`length` samples from `first` on, however often round."""
        places = np.arange(first, first + length) % self.samples.shape[1]
        return np.ascontiguousarray(self.samples[:, places])


def make_ring(rate_hz: float, prbs: int, antennas: int, seed: int) -> Ring:
    """A carrier of `prbs` at 30 kHz with the SSB beside it, where the band that is sampled ends."""
    rng = np.random.default_rng(seed)
    near_hz = 3500e6
    half_hz = rate_hz / 2 - SSB_PRBS * PRB_SUBCARRIERS * SCS_HZ / 2
    raster_hz = candidates_hz(near_hz, rate_hz, SCS_HZ)[-1]
    center_hz = float(np.ceil((raster_hz - half_hz) / SCS_HZ) * SCS_HZ)
    below_hz = (SSB_PRBS + prbs) * PRB_SUBCARRIERS * SCS_HZ / 2
    carrier = Carrier(SCS_HZ, prbs, float(np.floor((raster_hz - below_hz) / SCS_HZ) * SCS_HZ))
    signal = PuschDmrs(additional_positions=1, n_id=(PCI, PCI))
    length = round(PERIOD_S * rate_hz)
    sent = np.zeros((2, length), np.complex64)
    modulator = OfdmModulator(carrier, rate_hz, center_hz)
    for slot in range(2 * carrier.slots_per_frame):
        frame, slot_in_frame = divmod(slot, carrier.slots_per_frame)
        first, samples = modulator.slot(slot_in_frame, shared_channel(carrier, slot_in_frame, signal, rng))
        first += frame * length // 2
        sent[0, first : first + samples.shape[1]] = samples[0]
    elements = ssb_elements(PCI, 0, 8, pbch.message(PCI, 8, sfn=0))
    slot, grid = ssb_slot("C", 8, 0, elements, SCS_HZ)
    first, samples = OfdmModulator(Carrier(SCS_HZ, SSB_PRBS, raster_hz), rate_hz, center_hz).slot(slot, grid)
    sent[1, first : first + samples.shape[1]] = samples[0]
    return Ring(rate_hz, center_hz, carrier, signal, _received(sent, antennas, rate_hz, rng))


def _received(
    sent: npt.NDArray[np.complex64], antennas: int, rate_hz: float, rng: np.random.Generator
) -> npt.NDArray[np.complex64]:
    """Both senders through Rayleigh channels of an exponential profile, in noise. Shape [A, T]."""
    spectra = np.fft.fft(sent, axis=1)
    frequencies = np.fft.fftfreq(sent.shape[1], 1 / rate_hz)
    delays_s = rng.exponential(_DELAY_SPREAD_S, _TAPS)
    ramps = np.exp(-2j * np.pi * np.outer(delays_s, frequencies))
    noise = np.sqrt(10 ** (-_SNR_DB / 10) / 2)
    found = np.empty((antennas, sent.shape[1]), np.complex64)
    for antenna in range(antennas):
        parts = rng.normal(scale=np.sqrt(0.5 / _TAPS), size=(2, 2, _TAPS))
        responses = (parts[0] + 1j * parts[1]) @ ramps
        clean = np.fft.ifft((spectra * responses).sum(axis=0))
        parts = rng.normal(scale=noise, size=(2, sent.shape[1]))
        found[antenna] = clean + parts[0] + 1j * parts[1]
    found *= 1 / (_PEAK * np.sqrt(np.mean(np.abs(found) ** 2)))
    return found
