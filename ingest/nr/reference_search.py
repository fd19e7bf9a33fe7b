"""Finds PUSCH, PDSCH and PDCCH DMRS in IQ samples of which nothing is known but the rate and the centre frequency.

Cyclic prefixes give spacing and timing (`time_grid`); the shift register of a first sequence is decoded from pilots in
the likeliest places (`occupancy`, `lfsr`), whatever its slot, symbol, identity and place in the carrier. It tells the
numbers of all symbols and resource blocks; from there on sequences are followed over symbols and frequency, and the
search for more goes on with few unknowns. Every claim carries its false-alarm probability (`reference_evidence`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from math import comb

import numpy as np
import numpy.typing as npt

from ingest.nr import lfsr
from ingest.nr.capture_grid import CaptureGrid
from ingest.nr.occupancy import Trial, trials, windows
from ingest.nr.ofdm import SYMBOLS_PER_SLOT
from ingest.nr.reference_evidence import (
    PDCCH,
    TYPE_1,
    TYPE_2,
    Fit,
    Layout,
    best_range,
    block_scores,
    c_init,
    combined,
    fit,
    identity_of,
    matched,
    pieces,
)
from ingest.nr.weak_search import weak_sequences

MAX_CRBS = 275
"""Common resource blocks among which a first sequence is looked for."""

_MAX_TRIALS = 700
"""Some seconds of search where there is power but no sequence."""

_MAX_WEAK = 4
_LN_SURE = float(np.log(1e-6))
_LN_WORTH_FOLLOWING = 10.0
"""What one symbol leaves in doubt others may settle."""

_LN_FOLLOWED = float(np.log(1e-7))
"""A known sequence on one more symbol: few hypotheses, some hundred tests."""

_C_INITS = 2.0**31
_NO_FIT = Fit(0.0, 1, 0.0)


@dataclass(frozen=True)
class Sequence:
    """One DMRS sequence in a capture. origin: the bin that pilots of CDM group 0 are counted from, moved by the group's
    comb; first_symbol: the symbol of the frame that the grid's symbol 0 is."""

    layout: Layout
    origin: int
    first_symbol: int
    n_id: int
    n_scid: int

    def value(self, symbol: int, frame_symbols: int) -> int:
        return c_init((self.first_symbol + symbol) % frame_symbols, self.n_id, self.n_scid)


@dataclass(frozen=True)
class Sighting:
    """A sequence on one symbol and blocks [first, stop) counted from its origin."""

    sequence: Sequence
    row: int
    first: int
    stop: int
    log_p: float
    sign: int
    slope: float


def first_sequence(capture: CaptureGrid, crbs: int, *, thorough: bool = True) -> tuple[Sequence, float] | None:
    """The first sequence that is beyond doubt, and ln of the number of hypotheses it was picked from.

    thorough: also look for what no one symbol can tell, which takes seconds more.
    """
    listed = trials(capture.power, windows(capture.power, capture.floor), (TYPE_1, TYPE_2, PDCCH))
    tests = 0.0
    for trial in listed[: _MAX_TRIALS if thorough else _MAX_TRIALS // 3]:
        layout = trial.layout
        firsts = np.arange(0, crbs * layout.per_prb, layout.in_period)
        tests += len(firsts) * _C_INITS * capture.frame_symbols / 2**14
        for sequence, log_p in _decoded(capture, trial, firsts, order=2):
            doubt = float(np.log(tests))
            if (
                log_p + doubt < _LN_WORTH_FOLLOWING
                and evidence(capture, sequence, log_p, trial.window.row) + doubt < _LN_SURE
            ):
                return sequence, doubt
    return _weak_sequence(capture, crbs) if thorough else None


def _weak_sequence(capture: CaptureGrid, crbs: int) -> tuple[Sequence, float] | None:
    """`first_sequence` for signals too weak for one symbol to tell: several are read together."""
    tests = 0.0
    for burst, rows, hypotheses, tried in islice(weak_sequences(capture, crbs), _MAX_WEAK):
        tests += tried
        for one in hypotheses:
            sequence = Sequence(one.layout, one.origin, one.first_symbol, one.n_id, one.n_scid)
            logs = []
            for row in rows:
                value = sequence.value(int(capture.symbols[row]), capture.frame_symbols)
                product, blocks = matched(capture.spectra[row], one.layout, one.origin, value)
                low = (burst.low - one.origin) // 12 - int(blocks[0])
                logs.append(fit(product[low : low + (burst.high - burst.low) // 12], one.layout).log_p)
            # The symbols were picked from a slot's.
            doubt = float(np.log(tests * comb(SYMBOLS_PER_SLOT, len(rows))))
            if combined(logs) + doubt < _LN_SURE:
                return sequence, doubt
    return None


def evidence(capture: CaptureGrid, sequence: Sequence, log_p: float, row: int) -> float:
    """ln P of the sequence as first seen on the symbol of `row`, together with the other symbols of its slot."""
    slots = (sequence.first_symbol + capture.symbols) // SYMBOLS_PER_SLOT
    best: dict[int, float] = {}
    for seen in follow(capture, sequence, np.flatnonzero(slots == slots[row])):
        best[seen.row] = min(seen.log_p, best.get(seen.row, 0.0))
    return min(log_p, combined(list(best.values())))


def more_sequences(capture: CaptureGrid, first: Sequence, grid_bin: int) -> Iterator[tuple[Sequence, float]]:
    """Further sequences in what `first` and those yielded before leave unexplained, each with ln of its hypotheses.

    grid_bin: first bin of a resource block. The symbols' numbers are known, so a c_init has 17 free bits, and sequences
    start at any block: those of a CORESET and of SIB1 do not count from common resource block 0.
    """
    taken = np.zeros(capture.power.shape, np.bool_)
    known = list(relatives(first, grid_bin))
    for sequence in known:
        _mark(capture, sequence, taken)
    tests = 0.0
    for trial in trials(capture.power, windows(capture.power, capture.floor), (TYPE_1, TYPE_2, PDCCH)):
        firsts = _block_starts(trial, grid_bin)
        if not len(firsts) or taken[trial.window.row, _bins(trial)].mean() > 0.3:
            continue
        tests += len(firsts) * _C_INITS / 2**14
        for sequence, log_p in _decoded(capture, trial, firsts, order=2):
            doubt = float(np.log(tests))
            if sequence.first_symbol != first.first_symbol or sequence in known:
                continue
            if (
                log_p + doubt < _LN_WORTH_FOLLOWING
                and evidence(capture, sequence, log_p, trial.window.row) + doubt < _LN_SURE
            ):
                for relative in relatives(sequence, grid_bin):
                    known.append(relative)
                    _mark(capture, relative, taken)
                yield sequence, doubt


def relatives(sequence: Sequence, grid_bin: int) -> Iterator[Sequence]:
    """The sequence, and those of the same identity on other CDM groups and with the other n_scid."""
    layout = sequence.layout
    if layout is PDCCH:
        yield sequence
        return
    reference = sequence.origin - (sequence.origin - grid_bin) % 12
    for n_scid in (sequence.n_scid, 1 - sequence.n_scid):
        for group in range(layout.groups):
            yield replace(sequence, n_scid=n_scid, origin=reference + group * layout.group_step)


def _mark(capture: CaptureGrid, sequence: Sequence, taken: npt.NDArray[np.bool_]) -> None:
    for seen in follow(capture, sequence):
        pilots = np.arange(seen.first * sequence.layout.per_prb, seen.stop * sequence.layout.per_prb)
        taken[seen.row, sequence.origin + sequence.layout.subcarriers(pilots)] = True


def _bins(trial: Trial) -> npt.NDArray[np.int64]:
    count = (trial.window.high - trial.first) // trial.layout.period * trial.layout.in_period
    return trial.first + trial.layout.subcarriers(np.arange(count)) - int(trial.layout.subcarriers(0))


def _block_starts(trial: Trial, grid_bin: int) -> npt.NDArray[np.int64]:
    """Numbers that the trial's first pilot may have where blocks begin at grid_bin, whatever block is the first."""
    layout = trial.layout
    pilots = np.arange(0, MAX_CRBS * layout.per_prb, layout.in_period)
    offset = (trial.first - layout.subcarriers(pilots) - grid_bin) % 12
    return pilots[np.isin(offset, np.arange(layout.groups) * layout.group_step)]


def _decoded(
    capture: CaptureGrid, trial: Trial, firsts: npt.NDArray[np.int64], *, order: int
) -> Iterator[tuple[Sequence, float]]:
    """Sequences that the pilots of a trial may carry, with ln of their false-alarm probabilities as single tests."""
    layout, window = trial.layout, trial.window
    bins = _bins(trial)
    if len(bins) <= layout.lag + lfsr.STATE_BITS // 2:
        return
    elements = capture.spectra[window.row][:, bins]
    products = np.sum(elements[:, layout.lag :] * np.conj(elements[:, : -layout.lag]), axis=0)
    for found in lfsr.decode(_derotated(products), layout.lag, firsts, order=order):
        symbol, n_id, n_scid = identity_of(found.c_init)
        if not 0 <= symbol < capture.frame_symbols:
            continue
        origin = trial.first - int(layout.subcarriers(found.first_pilot))
        product, blocks = matched(capture.spectra[window.row], layout, origin, found.c_init)
        low = max(-(-(window.low - origin) // 12), int(blocks[0])) - int(blocks[0])
        high = (window.high - origin) // 12 - int(blocks[0])
        if high - low < 2:
            continue
        first_symbol = (symbol - int(capture.symbols[window.row])) % capture.frame_symbols
        yield (
            Sequence(layout, origin, first_symbol, n_id, n_scid),
            fit(product[low:high], layout).log_p,
        )


def _derotated(products: npt.NDArray[np.complexfloating]) -> npt.NDArray[np.complex128]:
    """The products turned onto the axes: the channel turns them all by what its delay is, at most 45 degrees.

    The fourth power takes a QPSK difference out. At low SNR it says nothing; then the delay is left as it is.
    """
    magnitudes = np.maximum(np.abs(products), 1e-30)
    fourth = np.sum(products**4 / magnitudes**3)
    if np.abs(fourth) ** 2 < 8.0 * float(np.sum(magnitudes**2)):
        return np.asarray(products, np.complex128)
    return np.asarray(products * np.exp(-0.25j * np.angle(fourth)))


def follow(capture: CaptureGrid, sequence: Sequence, rows: npt.NDArray[np.int64] | None = None) -> list[Sighting]:
    """Where else in the capture `sequence` is, on any block of all symbols or those of `rows`."""
    found: list[Sighting] = []
    for row in range(len(capture.symbols)) if rows is None else rows.tolist():
        value = sequence.value(int(capture.symbols[row]), capture.frame_symbols)
        product, blocks = matched(capture.spectra[row], sequence.layout, sequence.origin, value)
        if not len(blocks):
            continue
        for sign in (1,) if sequence.layout is PDCCH else (1, -1):
            scores = block_scores(product[None], sequence.layout, 0.0, sign)
            while True:
                first, stop, total = best_range(scores)
                if total < 6.0:
                    break
                scores[first:stop] = -1e3
                for low, high in pieces(product[None], first, stop):
                    result = fit(product[low:high], sequence.layout, (sign,)) if high - low > 1 else _NO_FIT
                    if result.log_p < _LN_FOLLOWED:
                        at = int(blocks[0])
                        found.append(Sighting(sequence, row, low + at, high + at, result.log_p, sign, result.slope))
    return found
