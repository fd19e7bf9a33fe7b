"""SS/PBCH blocks written down from the standard, sample by sample, for the receiver to find.

Nothing here shares code with `ingest.nr`: sequences are the recursions of 3GPP TS 38.211 V17 taken literally, waveforms
its sums over subcarriers (clauses 5.3.1 and 5.4), evaluated at the instants at which a receiver takes its samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from ingest.messages import IqBlock
from tests.ingest.nr.broadcast import Broadcast, pbch_symbols

Complex = npt.NDArray[np.complex128]

SSB_SUBCARRIERS = 240
SSB_SYMBOLS = 4
SYNC = range(56, 183)
CP_SHARE = 144 / 2048
"""Normal cyclic prefix over useful symbol length."""


def slow_gold(c_init: int, length: int) -> list[int]:
    """c(n), clause 5.2.1."""
    x1, x2 = [1] + [0] * 30, [(c_init >> bit) & 1 for bit in range(31)]
    for n in range(1600 + length):
        x1.append((x1[n + 3] + x1[n]) % 2)
        x2.append((x2[n + 3] + x2[n + 2] + x2[n + 1] + x2[n]) % 2)
    return [(x1[n + 1600] + x2[n + 1600]) % 2 for n in range(length)]


def slow_pss(n_id_2: int) -> list[int]:
    """d_PSS(n), clause 7.4.2.2.1."""
    x = [0, 1, 1, 0, 1, 1, 1]
    for i in range(120):
        x.append((x[i + 4] + x[i]) % 2)
    return [1 - 2 * x[(n + 43 * n_id_2) % 127] for n in range(127)]


def slow_sss(pci: int) -> list[int]:
    """d_SSS(n), clause 7.4.2.3.1."""
    n_id_1, n_id_2 = pci // 3, pci % 3
    x0, x1 = [1, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0]
    for i in range(120):
        x0.append((x0[i + 4] + x0[i]) % 2)
        x1.append((x1[i + 1] + x1[i]) % 2)
    m0, m1 = 15 * (n_id_1 // 112) + 5 * n_id_2, n_id_1 % 112
    return [(1 - 2 * x0[(n + m0) % 127]) * (1 - 2 * x1[(n + m1) % 127]) for n in range(127)]


def slow_pbch_dmrs(pci: int, index_bar: int) -> list[complex]:
    """r(m), clause 7.4.1.4.1."""
    c = slow_gold((index_bar + 1) * (pci // 4 + 1) * 2**11 + (index_bar + 1) * 2**6 + pci % 4, 288)
    return [((1 - 2 * c[2 * m]) + 1j * (1 - 2 * c[2 * m + 1])) / 2**0.5 for m in range(144)]


@cache
def ssb_grid(pci: int, index_bar: int, said: Broadcast | None = None) -> Complex:
    """The resource elements [symbol, subcarrier] by table 7.4.3.1-1; without `said` the PBCH's data are random QPSK."""
    grid = np.zeros((SSB_SYMBOLS, SSB_SUBCARRIERS), np.complex128)
    rng = np.random.default_rng([pci, index_bar])
    dmrs = iter(slow_pbch_dmrs(pci, index_bar))
    data = iter(pbch_symbols(said, pci, index_bar)) if said else None
    grid[0, SYNC] = slow_pss(pci % 3)
    grid[2, SYNC] = slow_sss(pci)
    for symbol in (1, 2, 3):
        for subcarrier in range(SSB_SUBCARRIERS):
            if symbol == 2 and 48 <= subcarrier <= 191:
                continue
            if subcarrier % 4 == pci % 4:
                grid[symbol, subcarrier] = next(dmrs)
            elif data:
                grid[symbol, subcarrier] = next(data)
            else:
                grid[symbol, subcarrier] = (rng.choice([1, -1]) + 1j * rng.choice([1, -1])) / 2**0.5
    assert next(dmrs, None) is None
    assert data is None or next(data, None) is None
    return grid


@dataclass(frozen=True)
class Ssb:
    """One SS/PBCH block on the air. start_s: where its first cyclic prefix begins. cfo_hz: carrier minus raster.

    index_bar: what its DMRS tells of its index. taps: (delay [s], gain) of the channel, the phase of a gain being that
    at the raster frequency. gain: amplitude of a resource element at each receive antenna. said: what its PBCH says.
    """

    pci: int
    start_s: float
    raster_hz: float
    scs_hz: float = 30e3
    index_bar: int = 0
    cfo_hz: float = 0.0
    taps: tuple[tuple[float, complex], ...] = ((0.0, 1.0),)
    gain: tuple[complex, ...] = (1.0,)
    said: Broadcast | None = None

    @property
    def duration_s(self) -> float:
        return SSB_SYMBOLS * (1 + CP_SHARE) / self.scs_hz

    def response(self, subcarriers: npt.NDArray[np.integer]) -> Complex:
        """The channel on the block's subcarriers, for delays counted from `start_s`."""
        offset_hz = (subcarriers - SSB_SUBCARRIERS // 2) * self.scs_hz
        return np.asarray(sum(gain * np.exp(-2j * np.pi * offset_hz * delay_s) for delay_s, gain in self.taps))

    def samples(self, times_s: npt.NDArray[np.float64], center_hz: float) -> Complex:
        """What a receiver tuned to `center_hz` sees of it at `times_s`. Shape [antennas, samples]."""
        seen = sum(gain * self._path(times_s - delay_s) for delay_s, gain in self.taps)
        # Its carrier starts anew at every symbol (clause 5.4), the receiver's oscillator runs on.
        seen = seen * np.exp(2j * np.pi * np.mod((self.raster_hz - center_hz + self.cfo_hz) * times_s, 1.0))
        return np.multiply.outer(np.array(self.gain), seen)

    def _grid(self) -> Complex:
        return ssb_grid(self.pci, self.index_bar, self.said)

    def _path(self, times_s: npt.NDArray[np.float64]) -> Complex:
        grid = self._grid()
        length_s = (1 + CP_SHARE) / self.scs_hz
        seen = np.zeros(times_s.shape, np.complex128)
        for symbol in range(SSB_SYMBOLS):
            begin_s = self.start_s + symbol * length_s
            inside = np.flatnonzero((times_s >= begin_s - 1e-12) & (times_s < begin_s + length_s - 1e-12))
            useful_s = begin_s + CP_SHARE / self.scs_hz
            turn = np.exp(2j * np.pi * self.scs_hz * (times_s[inside] - useful_s))  # of one subcarrier
            restart = np.exp(-2j * np.pi * np.mod(self.raster_hz * useful_s, 1.0))
            seen[inside] = restart * np.polyval(grid[symbol, ::-1], turn) * turn ** (-SSB_SUBCARRIERS // 2)
        return seen


def capture(
    ssbs: list[Ssb],
    *,
    rate_hz: float,
    center_hz: float,
    samples: int,
    snr_db: float | None = None,
    rng: np.random.Generator | None = None,
    first_sample: int = 0,
) -> npt.NDArray[np.complex64]:
    """Samples [antennas, samples] of all blocks; noise makes a resource element of the first one have `snr_db`."""
    antennas = len(ssbs[0].gain) if ssbs else 1
    seen = np.zeros((antennas, samples), np.complex128)
    for ssb in ssbs:
        longest_s = ssb.duration_s + max(delay_s for delay_s, _ in ssb.taps)
        first = max(int(ssb.start_s * rate_hz) - 1, first_sample)
        last = min(int((ssb.start_s + longest_s) * rate_hz) + 2, first_sample + samples)
        if last > first:
            part = ssb.samples(np.arange(first, last) / rate_hz, center_hz)
            seen[:, first - first_sample : last - first_sample] += part
    if snr_db is not None:
        assert rng is not None
        scs_hz = ssbs[0].scs_hz if ssbs else 30e3
        seen += np.sqrt(rate_hz / scs_hz * 10 ** (-snr_db / 10)) * noise(rng, antennas, samples)
    return seen.astype(np.complex64)


def noise(rng: np.random.Generator, antennas: int, samples: int) -> Complex:
    """White noise of unit power per sample."""
    parts = rng.normal(size=(2, antennas, samples))
    return np.asarray((parts[0] + 1j * parts[1]) / np.sqrt(2))


def block(
    samples: npt.NDArray[np.complex64], *, rate_hz: float, center_hz: float, first_sample: int = 0, seq: int = 0
) -> IqBlock:
    """`samples` as a radio hands them over, stamped by their own clock."""
    return IqBlock(
        source="radio",
        epoch=0,
        seq=seq,
        t_ns=round(first_sample / rate_hz * 1e9),
        rate_hz=rate_hz,
        center_hz=center_hz,
        first_sample=first_sample,
        samples=samples,
    )
