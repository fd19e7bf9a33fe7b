"""Compiles what receiving needs before the first sample comes: seconds the first time on a machine, less from disk."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ingest.nr import ssb_receiver
from ingest.nr.ofdm import SYMBOLS_PER_SLOT, OfdmDemodulator
from ingest.nr.references import ReferenceSettings
from ingest.nr.slot_receiver import SlotReceiver

_MAX_FRAMES = 64
_SLOTS = 3
_NOISE = 0.1


def warm_up(references: ReferenceSettings | None = None) -> None:
    """Receive made-up signals once: silence where cells are sought, and what `references` describe."""
    ssb_receiver.warm_up()
    if references is None:
        return
    carrier = references.carrier
    fft = 1 << int(np.ceil(np.log2(carrier.subcarriers + 1)))
    rate_hz = fft * carrier.scs_hz
    demodulator = OfdmDemodulator(carrier, rate_hz, carrier.carrier_hz)
    frame_samples = round(10e-3 * rate_hz)
    for antennas in (1, 2):
        receiver = SlotReceiver(carrier, references.signals, rate_hz, carrier.carrier_hz, 0)
        heard = 0
        for frame in range(_MAX_FRAMES):
            samples, slots = _frame(demodulator, references, frame, antennas)
            # In pieces, as streams come: slots that lie across a border take another way.
            for piece in np.array_split(np.arange(frame_samples), 7):
                list(receiver.process(samples[:, piece[0] : piece[-1] + 1], frame * frame_samples + int(piece[0])))
            heard += slots
            if heard >= _SLOTS:
                break


def _frame(
    demodulator: OfdmDemodulator, references: ReferenceSettings, frame: int, antennas: int
) -> tuple[npt.NDArray[np.complex64], int]:
    """Samples [A, T] of a frame's reference signals in some noise, and in how many slots there are any."""
    rng = np.random.default_rng([frame, antennas])
    length = round(10e-3 * demodulator.rate_hz)
    parts = rng.normal(scale=_NOISE, size=(2, antennas, length))
    samples = parts[0] + 1j * parts[1]
    slots = 0
    for slot in range(demodulator.carrier.slots_per_frame):
        spectra = np.zeros((SYMBOLS_PER_SLOT, demodulator.fft), np.complex128)
        groups = [
            group for _, signal in references.signals for group in signal.pilots(demodulator.carrier, slot, frame)
        ]
        for group in groups:
            elements = group.values.sum(axis=0) / demodulator.coefficients(slot, group.symbols, group.subcarriers)
            spectra[np.array(group.symbols)[:, None], demodulator.bins(group.subcarriers)] += elements
        slots += bool(groups)
        for start, spectrum in zip(demodulator.windows(slot, range(SYMBOLS_PER_SLOT)), spectra, strict=True):
            samples[:, start : start + demodulator.fft] += np.fft.ifft(spectrum)
    return samples.astype(np.complex64), slots
