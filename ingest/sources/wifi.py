"""What logs of Wi-Fi channel state information have in common: subcarriers, packed numbers, frames with their noise.

The NIC's receive antennas are the array, each transmit stream is a user. Lengths are checked against each other before
any of them is followed, so that a damaged record is counted and the next one read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ingest.messages import ChannelFrame, no_array

SPACING_HZ = 312.5e3
# IEEE 802.11n-2009 table 7-25f: the 30 subcarriers that Ng = 2 (20 MHz) and Ng = 4 (40 MHz) grouping report.
TONES_20_MHZ = np.r_[np.arange(-28, -1, 2), -1, np.arange(1, 28, 2), 28] * SPACING_HZ
TONES_40_MHZ = np.arange(-58, 59, 4) * SPACING_HZ
# IEEE 802.11n-2009 clause 20.3.11.10: every occupied subcarrier of a 20 and of a 40 MHz packet.
ALL_TONES = {
    56: np.r_[np.arange(-28, 0), np.arange(1, 29)] * SPACING_HZ,
    114: np.r_[np.arange(-58, -1), np.arange(2, 59)] * SPACING_HZ,
}
_MAX_RSSI_DB = 127
_LEAST = 1e-9
ROUNDING_POWER = 1.0 / 6.0
"""Variance of rounding both components to whole numbers."""


@dataclass(frozen=True)
class Packet:
    """One packet's channel. csi [receive antenna, stream, subcarrier] in the NIC's scale, rounding: the noise of that.

    snr_db: the NIC's RSSI over its noise floor; None where it tells none, and the noise is taken from how far the
    channel is from smooth.
    """

    csi: npt.NDArray[np.complex64]
    tones_hz: npt.NDArray[np.float64]
    t_ns: int
    snr_db: float | None
    carrier_hz: float | None
    rounding: float = ROUNDING_POWER


def unpack_10_bit(data: bytes, shape: tuple[int, ...]) -> npt.NDArray[np.complex64]:
    """Signed 10-bit numbers, least significant bit first, imaginary part before the real one."""
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    count = int(np.prod(shape))
    numbers = bits[: count * 20].reshape(-1, 10).astype(np.int32) @ (1 << np.arange(10))
    numbers = np.where(numbers & 0x200, numbers - 0x400, numbers).astype(np.float32)
    return (numbers[1::2] + 1j * numbers[0::2]).astype(np.complex64).reshape(shape)


def noise_from_bends(values: npt.NDArray[np.complexfloating], least: float) -> float:
    """Variance of an estimate's error, from second differences over frequency [..., S], where a smooth channel cancels.

    E|n[s-1] - 2 n[s] + n[s+1]|^2 = 6 var. What the channel itself bends counts as noise: rather too much than too
    little. least: what rounding alone makes, which is the answer where there is not enough to see more.
    """
    if values.shape[-1] < 3:
        return least
    values = values.astype(np.complex128)  # squares of single precision may run over
    bends = values[..., :-2] - 2 * values[..., 1:-1] + values[..., 2:]
    return float(max(np.mean(np.abs(bends) ** 2) / 6, least))


def usual(counts: Counter[int]) -> int:
    """The number of antennas that most packets have: they are the array, others are counted and passed over."""
    return max(counts, key=lambda antennas: (counts[antennas], antennas))


def frames(packet: Packet, source: str, number: int) -> Iterator[ChannelFrame]:
    """A `ChannelFrame` per transmit stream, scaled so that the noise power of an entry is 1."""
    antennas, streams, _ = packet.csi.shape
    signal = float(np.mean(np.abs(packet.csi.astype(np.complex128)) ** 2))
    if packet.snr_db is None:
        noise = noise_from_bends(packet.csi, packet.rounding + _LEAST * signal)
    else:
        noise = signal / 10 ** (min(packet.snr_db, _MAX_RSSI_DB) / 10) + packet.rounding
    for stream in range(streams):
        cfr = (packet.csi[:, stream] / np.sqrt(noise)).astype(np.complex64)
        yield ChannelFrame(
            source=f"{source}.tx{stream}",
            epoch=0,
            seq=number,
            t_ns=packet.t_ns,
            user=f"tx{stream}",
            block=number,
            domain="effective",
            noise_power=1.0,
            snr_db=float(10 * np.log10(np.mean(np.abs(cfr) ** 2) + 1e-30)),
            carrier_hz=packet.carrier_hz,
            cfr=cfr[None],
            tones_hz=packet.tones_hz,
            ris_patterns=no_array(1, 0),
            beams=no_array(0, antennas),
            cir=no_array(antennas, 0),
        )
