"""A small transmitter of PUSCH-like slots, written from 38.211 and independent of the receiver's code."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


def gold_bits(c_init: int, length: int) -> npt.NDArray[np.int64]:
    """38.211 clause 5.2.1, bit by bit."""
    x1 = [1] + [0] * 30
    x2 = [c_init >> i & 1 for i in range(31)]
    for n in range(1600 + length):
        x1.append((x1[n + 3] + x1[n]) % 2)
        x2.append((x2[n + 3] + x2[n + 2] + x2[n + 1] + x2[n]) % 2)
    return np.array([(x1[n + 1600] + x2[n + 1600]) % 2 for n in range(length)])


@dataclass(frozen=True)
class Allocation:
    """What one user sends in one slot. prbs: (first, count) within the carrier. data: QAM order's bits a dimension, 0
    for none. ports: of the CDM group. with_data: data on the other resource elements of DMRS symbols too."""

    slot: int = 7
    prbs: tuple[int, int] = (10, 24)
    symbols: tuple[int, ...] = (2, 7, 11)
    config_type: int = 1
    cdm_group: int = 0
    ports: tuple[int, ...] = (0,)
    n_id: int = 1
    n_scid: int = 0
    data: int = 1
    with_data: bool = False
    power_db: float = 0.0
    reference: int = 0
    """The common resource block from which the sequence counts."""


@dataclass(frozen=True)
class Radio:
    """The carrier and the air. snr_db: of a resource element, for 0 dB of an allocation's power. early: samples missing
    in front; taps: (delay in samples, gain)."""

    scs_hz: float = 30e3
    prbs: int = 106
    first_crb: int = 0
    rate_hz: float = 46.08e6
    carrier_off_hz: float = 0.0
    snr_db: float = 20.0
    cfo_hz: float = 0.0
    first_slot: int = 6
    slots: int = 2
    early: int = 0
    taps: tuple[tuple[float, complex], ...] = ((0.0, 1.0), (9.0, 0.5j))
    antennas: int = 1


def dmrs_element(user: Allocation, symbol: int, subcarrier: int, bits: npt.NDArray[np.int64], port: int) -> complex:
    """The DMRS of a port at a subcarrier counted from the reference block; 0 where there is none."""
    if user.config_type == 1:
        place = subcarrier - user.cdm_group
        if place % 2:
            return 0.0
        m, k_prime = place // 2, place // 2 % 2
    else:
        place = subcarrier - 2 * user.cdm_group
        if place % 6 > 1:
            return 0.0
        m, k_prime = 2 * (place // 6) + place % 6, place % 6
    value = ((1 - 2 * bits[2 * m]) + 1j * (1 - 2 * bits[2 * m + 1])) / np.sqrt(2)
    return complex(-value if port == 1 and k_prime == 1 else value)


def grids(
    radio: Radio, users: list[Allocation], rng: np.random.Generator
) -> tuple[npt.NDArray[np.complex128], npt.NDArray[np.complex128]]:
    """Resource elements [slots, 14, subcarriers] of first ports with all data, and of second ports."""
    first = np.zeros((radio.slots, 14, 12 * radio.prbs), np.complex128)
    second = np.zeros_like(first)
    for user in users:
        row = user.slot - radio.first_slot
        gain = 10 ** (user.power_db / 20)
        low, high = 12 * user.prbs[0], 12 * sum(user.prbs)
        levels = np.arange(-(2**user.data) + 1, 2**user.data, 2) if user.data else np.zeros(1)
        norm = np.sqrt(2 * np.mean(levels**2)) if user.data else 1.0
        for symbol in range(14):
            data = (rng.choice(levels, high - low) + 1j * rng.choice(levels, high - low)) / norm
            if symbol not in user.symbols:
                first[row, symbol, low:high] += gain * data
                continue
            c_init = (2**17 * (14 * user.slot + symbol + 1) * (2 * user.n_id + 1) + 2 * user.n_id + user.n_scid) % 2**31
            offset = 12 * (radio.first_crb - user.reference)
            bits = gold_bits(c_init, 2 * (high + offset))
            for k in range(low, high):
                sent = [dmrs_element(user, symbol, k + offset, bits, port) for port in (0, 1)]
                if sent[0] == 0.0:
                    first[row, symbol, k] += gain * data[k - low] * user.with_data
                else:
                    first[row, symbol, k] += gain * sent[0] * (0 in user.ports)
                    second[row, symbol, k] += gain * sent[1] * (1 in user.ports)
    return first, second


def modulated(radio: Radio, grid: npt.NDArray[np.complex128]) -> npt.NDArray[np.complex128]:
    """OFDM with normal cyclic prefixes (38.211 clause 5.3.1), slots from first_slot on. Unit power an element."""
    fft = round(radio.rate_hz / radio.scs_hz)
    mu = round(np.log2(radio.scs_hz / 15e3))
    parts = []
    for row in range(grid.shape[0]):
        for symbol in range(14):
            bins = np.zeros(fft, np.complex128)
            bins[(np.arange(12 * radio.prbs) - 6 * radio.prbs) % fft] = grid[row, symbol]
            useful = np.fft.ifft(bins) * np.sqrt(fft)
            in_subframe = (radio.first_slot + row) % 2**mu * 14 + symbol
            long = in_subframe in (0, 7 * 2**mu)
            prefix = (144 + (16 * 2**mu if long else 0)) * fft // 2048
            parts.append(np.concatenate([useful[-prefix:], useful]))
    return np.concatenate(parts)


def _received(radio: Radio, sent: npt.NDArray[np.complex128], turn: complex) -> npt.NDArray[np.complex128]:
    """Through the taps, delays as phase ramps."""
    frequencies = np.fft.fftfreq(len(sent))
    response = sum(gain * np.exp(-2j * np.pi * frequencies * delay) for delay, gain in radio.taps)
    scale = np.sqrt(sum(abs(gain) ** 2 for _, gain in radio.taps))
    return np.asarray(np.fft.ifft(np.fft.fft(sent) * response) / scale * turn)


def transmit(radio: Radio, users: list[Allocation], rng: np.random.Generator) -> npt.NDArray[np.complex64]:
    """Samples [A, T] of noise of 10^(-snr_db / 10) per resource element with the users in it."""
    first, second = grids(radio, users, rng)
    waves = [modulated(radio, first), modulated(radio, second)]
    length = len(waves[0])
    time = np.arange(length) / radio.rate_hz
    mixer = np.exp(2j * np.pi * (radio.cfo_hz + radio.carrier_off_hz) * time)
    antennas = []
    for _ in range(radio.antennas):
        turns = np.exp(2j * np.pi * rng.random(2))
        clean = sum(_received(radio, wave, turn) for wave, turn in zip(waves, turns, strict=True))
        noise = rng.normal(size=(2, length)) * np.sqrt(10 ** (-radio.snr_db / 10) / 2)
        antennas.append(clean * mixer + noise[0] + 1j * noise[1])
    return np.stack(antennas)[:, radio.early :].astype(np.complex64)
