"""How well one DMRS sequence explains resource elements: where in frequency, at what SNR, and how surely.

What is tested is y(m) conj(r(m)): with the right sequence it is the channel, smooth over frequency, so that its energy
gathers at a few delays; with a wrong one, or on noise or data, it is white. The share eta of the energy that lies in a
subspace of D of M dimensions has then a known tail, whatever the level: a false-alarm probability. Magnitudes are left
out of the test (|y| = 1), or a few strong elements among many weak ones would speak for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import scipy.fft
from scipy.special import betaln, gammaln, logsumexp

from ingest.nr.lfsr import gold_bits
from ingest.nr.sequences import qpsk


@dataclass(frozen=True)
class Layout:
    """How a channel's pilots lie in resource blocks. lag: pilots that a product spans, such that ports with frequency
    covers are told apart; period: subcarriers after which the pattern repeats."""

    channel: str
    config_type: int
    per_prb: int
    period: int
    in_period: int
    lag: int
    groups: int

    def subcarriers(self, pilots: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Where pilots of CDM group 0 lie, from the first subcarrier of the sequence's reference block."""
        repeat, within = np.divmod(np.asarray(pilots, np.int64), self.in_period)
        return np.asarray(repeat * self.period + within + (1 if self.channel == "pdcch" else 0))

    @property
    def group_step(self) -> int:
        """Subcarriers between the combs of neighbouring CDM groups."""
        return self.in_period


TYPE_1 = Layout("pxsch", 1, 6, 2, 1, 2, 2)
"""38.211 clauses 6.4.1.1.3 and 7.4.1.1.2, configuration type 1."""
TYPE_2 = Layout("pxsch", 2, 4, 6, 2, 2, 3)
PDCCH = Layout("pdcch", 0, 3, 4, 1, 1, 1)
"""38.211 clause 7.4.1.3.2: subcarriers 1, 5 and 9 of each block."""


def c_init(symbol_in_frame: int, n_id: int, n_scid: int) -> int:
    """38.211 clauses 6.4.1.1.1.1, 7.4.1.1.1 and 7.4.1.3.1 (where n_scid is 0); symbol_in_frame is 14 n_s + l."""
    return (2**17 * (symbol_in_frame + 1) * (2 * n_id + 1) + 2 * n_id + n_scid) % 2**31


def identity_of(value: int) -> tuple[int, int, int]:
    """(symbol in frame, n_id, n_scid) of a c_init; the first may exceed what a frame has, or be -1: then it is none.

    2 n_id + 1 is odd, so the symbol's factor can be divided out modulo 2^14: the split is unique.
    """
    n_id, n_scid = divmod(value & 0x1FFFF, 2)
    factor = (value >> 17) * pow(2 * n_id + 1, -1, 1 << 14) % (1 << 14)
    return factor - 1, n_id, n_scid


def matched(
    elements: npt.NDArray[np.complex64], layout: Layout, origin: int, value: int
) -> tuple[npt.NDArray[np.complex64], npt.NDArray[np.int64]]:
    """y conj(r) of each whole block in elements [A, N], and the blocks' numbers. Shapes [P, A, per_prb] and [P].

    origin: the bin where pilot 0 of CDM group 0 is counted from; value: c_init.
    """
    blocks = _blocks_inside(elements.shape[1], origin, layout)
    pilots = (blocks[:, None] * layout.per_prb + np.arange(layout.per_prb)).ravel()
    if not len(pilots):
        return np.zeros((0, elements.shape[0], layout.per_prb), np.complex64), blocks
    sequence = qpsk(gold_bits(value, 2 * int(pilots[-1] + 1)).astype(np.int8))[pilots]
    product = elements[:, origin + layout.subcarriers(pilots)] * np.conj(sequence)
    shaped = product.reshape(elements.shape[0], len(blocks), layout.per_prb)
    return np.asarray(shaped.transpose(1, 0, 2), np.complex64), blocks


def _blocks_inside(bins: int, origin: int, layout: Layout) -> npt.NDArray[np.int64]:
    last = layout.subcarriers(layout.per_prb - 1)
    first_block = max(0, -(-(-origin - int(layout.subcarriers(0))) // 12))
    return np.arange(first_block, max((bins - 1 - origin - int(last)) // 12 + 1, first_block))


def log_tail(share: float, dimensions: int, of: int) -> float:
    """ln of a bound on the probability that elements of unit magnitude have more than `share` of their energy in a
    subspace of `dimensions` of their `of` dimensions by chance; 0 at and below the mean.

    The greater of two: the tail of Beta(dimensions, of - dimensions), which uniform phases would give; and Chernoff's
    bound for given y behind random QPSK, exp(-2 M (ln 2 - H((1 + sqrt(eta)) / 2))), heavier at great shares as there
    are just four phases (E exp(t Re(e^{j phi} r)) = cosh(t cos phi) cosh(t sin phi) is greatest at 45 degrees).
    """
    if share <= dimensions / of:
        return 0.0
    a, b = float(dimensions), float(of - dimensions)
    share = min(share, 1.0 - 1e-12)
    geometric = (a - 1.0) * (1.0 - share) / ((b + 1.0) * share)
    if geometric >= 1.0:
        return 0.0
    scale = (a - 1.0) * np.log(share) - np.log(b) - betaln(a, b) - np.log1p(-geometric)
    up, down = (1.0 + np.sqrt(share)) / 2, (1.0 - np.sqrt(share)) / 2
    chernoff = 2.0 * (np.log(2.0) + up * np.log(up) + down * np.log(down))
    return float(min(scale - b * min(-np.log1p(-share), chernoff), 0.0))


def unit(values: npt.NDArray[np.complex64]) -> npt.NDArray[np.complex64]:
    """The values' phases; 0 where there is nothing."""
    magnitudes = np.abs(values)
    return np.asarray(values / np.where(magnitudes > 0.0, magnitudes, 1.0), np.complex64)


def combined(logs: list[float]) -> float:
    """ln P that independent tests are together as rare as these: -sum ln p is Gamma(n) distributed (Fisher)."""
    total = -sum(logs)
    if total <= 0.0:
        return 0.0
    k = np.arange(len(logs))
    return float(min(-total + logsumexp(k * np.log(total) - gammaln(k + 1)), 0.0))


@lru_cache(maxsize=64)
def _delay_basis(layout: Layout, blocks: int, turns: float) -> npt.NDArray[np.complex128]:
    """Orthonormal basis [M, D] of channels on `blocks` blocks whose delays lie within +-turns / 12 subcarriers."""
    at = layout.subcarriers(np.arange(blocks * layout.per_prb))
    width = 12 * blocks
    count = 2 * int(np.ceil(turns / 12 * width)) + 1
    delays = np.linspace(-1, 1, count) * turns / 12 if count > 1 else np.zeros(1)
    basis, _ = np.linalg.qr(np.exp(-2j * np.pi * at[:, None] * delays))
    return np.asarray(basis)


_TURNS = (0.0, 0.04, 0.15)
"""Half widths of the delays allowed, in turns a block: at 30 kHz 0, 0.11 and 0.42 us."""


_GAP = 0.03
"""A block with less than this share of the strongest one's power is none of the same allocation: -15 dB."""

_FINE = 8
"""Delays tried per resolvable one."""

_REACH = 72 / 2048
"""The greatest delay either way, in turns a subcarrier: half a prefix."""


@dataclass(frozen=True)
class Fit:
    """A sequence on a range of blocks. log_p: ln of the false-alarm probability of this one test.

    sign: +1 for the port without a frequency cover, -1 for the one with [+1, -1]. slope: turns a subcarrier.
    """

    log_p: float
    sign: int
    slope: float


def covers(layout: Layout) -> npt.NDArray[np.float64]:
    """What the second port of a CDM group has against the first within a block (w_f). Shape [per_prb]."""
    return np.asarray(np.where(np.arange(layout.per_prb) % 2, -1.0, 1.0))


def fit(product: npt.NDArray[np.complex64], layout: Layout, signs: tuple[int, ...] = (1, -1)) -> Fit:
    """The best of the models: one port or the other, and the delay spreads of `_TURNS`. product [P, A, per_prb]."""
    best = Fit(0.0, 1, 0.0)
    if layout is PDCCH:
        signs = (1,)
    tried = len(signs) * len(_TURNS)
    for sign in signs:
        data = unit(product * covers(layout) if sign < 0 else product)
        slope, delays = _slope(data, layout)
        at = layout.subcarriers(np.arange(layout.per_prb)) + 12 * np.arange(len(data))[:, None]
        flat = (data * np.exp(-2j * np.pi * slope * at)[:, None, :]).transpose(1, 0, 2).reshape(data.shape[1], -1)
        energy = float(np.sum(np.abs(flat) ** 2, dtype=np.float64))
        for turns in _TURNS:
            basis = _delay_basis(layout, len(data), turns)
            if basis.shape[1] * 2 > basis.shape[0] or energy <= 0.0:
                continue
            share = float(np.sum(np.abs(flat @ basis.conj()) ** 2)) / energy
            log_p = min(log_tail(share, basis.shape[1], basis.shape[0]) + np.log(tried * delays), 0.0)
            if log_p < best.log_p:
                best = Fit(log_p, sign, slope)
    return best


def _slope(data: npt.NDArray[np.complex64], layout: Layout) -> tuple[float, int]:
    """Turns a subcarrier at which data [P, A, per_prb] adds up best, within half a prefix, and how many were tried."""
    width = 12 * len(data)
    elements = np.zeros((data.shape[1], width), np.complex64)
    at = layout.subcarriers(np.arange(len(data) * layout.per_prb))
    elements[:, at] = data.transpose(1, 0, 2).reshape(len(elements), -1)
    points = scipy.fft.next_fast_len(_FINE * width)
    power = np.asarray(np.sum(np.abs(scipy.fft.fft(elements, points, axis=1)) ** 2, axis=0, dtype=np.float64))
    most = int(np.ceil(_REACH * points))
    turns = np.arange(-most, most + 1)
    return float(turns[int(np.argmax(power[turns]))]) / points, max(len(turns) // _FINE, 1)


def pieces(product: npt.NDArray[np.complex64], first: int, stop: int) -> list[tuple[int, int]]:
    """The parts of blocks [first, stop) of product [S, P, A, per_prb] between blocks of hardly any power.

    A wide range may reach over a gap between two allocations whose strength outweighs it.
    """
    power = np.mean(np.abs(product[:, first:stop]) ** 2, axis=(0, 2, 3))
    edges = np.flatnonzero(np.diff(np.concatenate([[0], power > _GAP * power.max(initial=0.0), [0]])))
    return [(first + int(a), first + int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def block_scores(
    product: npt.NDArray[np.complex64], layout: Layout, slope: float, sign: int, gain: float = 10.0
) -> npt.NDArray[np.float64]:
    """Log-likelihood ratio of each block, sequence there against not there. product [S, P, A, per_prb] to shape [P].

    In a block the sum over pilots is one dimension of per_prb. With the sequence its power is 1 + per_prb SNR times
    the others'; `gain` stands for that, by default near the SNRs at which edges are in doubt at all.
    """
    data = unit(product * covers(layout) if sign < 0 else product)
    at = layout.subcarriers(np.arange(layout.per_prb))
    aligned = data * np.exp(-2j * np.pi * slope * at)
    tests = product.shape[0] * product.shape[2]
    along = np.sum(np.abs(aligned.sum(axis=-1)) ** 2, axis=(0, 2), dtype=np.float64) / layout.per_prb
    total = np.sum(np.abs(aligned) ** 2, axis=(0, 2, 3), dtype=np.float64)
    share = np.where(total > 0.0, along / np.maximum(total, 1e-300), 0.0)
    return np.asarray(-tests * np.log(gain) - tests * layout.per_prb * np.log(1.0 - share + share / gain))


def best_range(scores: npt.NDArray[np.float64]) -> tuple[int, int, float]:
    """(first, stop, sum) of the range of the greatest sum."""
    total = np.concatenate([[0.0], np.cumsum(scores)])
    least = np.minimum.accumulate(total)
    stop = int(np.argmax(total - least))
    first = int(np.argmin(total[: stop + 1]))
    return first, stop, float(total[stop] - total[first])


def extended(scores: npt.NDArray[np.float64], first: int, stop: int, give_up: float = 12.0) -> tuple[int, int]:
    """The range [first, stop) cut or stretched at both ends to the greatest sum of scores that can be had.

    A stretch goes through blocks that lose up to `give_up` if what is behind them wins that back: a fade.
    """
    middle = first + int(np.argmax(scores[first:stop]))
    return middle - _reach(scores[:middle][::-1], give_up), middle + 1 + _reach(scores[middle + 1 :], give_up)


def _reach(scores: npt.NDArray[np.float64], give_up: float) -> int:
    """How many of the scores, from the first on, sum up best, before their sum falls `give_up` below that."""
    total = np.concatenate([[0.0], np.cumsum(scores)])
    fallen = np.flatnonzero(total < np.maximum.accumulate(total) - give_up)
    return int(np.argmax(total[: fallen[0]] if len(fallen) else total))


def snr(product: npt.NDArray[np.complex64], layout: Layout, slope: float, both_ports: bool) -> tuple[float, float]:
    """Signal and noise power of a resource element, of product [S, P, A, per_prb].

    Within a block a polynomial stands for the channel (and one more constant for a second port); what it leaves is
    noise. That is local, so neither the channel's selectivity nor a precoder that changes between blocks counts.
    """
    at = layout.subcarriers(np.arange(layout.per_prb)).astype(np.float64)
    x = (at - at.mean()) / max(float(np.ptp(at)), 1.0)
    columns = [x**degree for degree in range(3 if layout.per_prb > 4 else 2)]
    if both_ports:
        columns.append(covers(layout))
    basis, _ = np.linalg.qr(np.stack(columns, axis=1))
    aligned = product * np.exp(-2j * np.pi * slope * at)
    total = float(np.mean(np.abs(aligned) ** 2, dtype=np.float64)) * layout.per_prb
    explained = float(np.mean(np.sum(np.abs(aligned @ basis) ** 2, axis=-1), dtype=np.float64))
    freedom = layout.per_prb - basis.shape[1]
    noise = max(total - explained, 1e-12 * total) / freedom
    return max(total / layout.per_prb - noise, 1e-3 * noise), noise
