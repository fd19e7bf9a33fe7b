"""What to do with one slot: which symbols to transform, and which of their bins go to which estimator.

Plans are made once for each slot number in which the reference signals repeat, and then only looked up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ingest.kernel import kernel
from ingest.nr.ofdm import Carrier, OfdmDemodulator
from ingest.nr.pilots import PilotGroup

Complex64 = npt.NDArray[np.complex64]


class Reference(Protocol):
    """A reference signal: DMRS, SRS or CSI-RS as configured."""

    def pilots(self, carrier: Carrier, slot_in_frame: int, frame: int = 0) -> tuple[PilotGroup, ...]:
        """What the signal puts into a slot; nothing where it is not sent."""
        ...


@dataclass(frozen=True, eq=False)
class Stream:
    """Ports of one signal that share elements and are told apart over frequency; those apart over time are others.

    name: of the signal. ports [G]. picks [L]: indices into the plan's symbols. bins [S]: of the transform. coefficients
    [L, S]: what turns a bin into the received element over what port 0 sent, delays counted from the symbol's start.
    span: of symbols over which the ports' cover over time, `cover` [L], is orthogonal to others'; that many are
    averaged, to their middles at times_s [L / span] from symbol_times_s [L]. lead [S]: what port 0 sends over
    frequency, relative to the group's first port; covers [G, S]: what each sends relative to port 0. key: the same for
    all slots that one estimator follows; elements: for all streams that are told apart over time.
    """

    name: str
    ports: tuple[int, ...]
    picks: npt.NDArray[np.int64]
    bins: npt.NDArray[np.int64]
    coefficients: Complex64
    span: int
    tones_hz: npt.NDArray[np.float64]
    covers: npt.NDArray[np.complex128]
    times_s: npt.NDArray[np.float64]
    symbol_times_s: npt.NDArray[np.float64]
    cover: npt.NDArray[np.complex128]
    lead: npt.NDArray[np.complex128]
    key: tuple[object, ...]
    elements: tuple[object, ...]


@dataclass(frozen=True, eq=False)
class SlotPlan:
    """symbols: those to transform, ascending; windows: where theirs start in the frame. streams: what is in them.

    residues: of the bins modulo two, where one half of the transform is enough; None where all of it is needed.
    """

    symbols: tuple[int, ...]
    residues: tuple[int, ...] | None
    windows: npt.NDArray[np.int64]
    streams: tuple[Stream, ...]


def plan_slot(
    demodulator: OfdmDemodulator, references: Sequence[tuple[str, Reference]], slot_in_frame: int, frame: int
) -> SlotPlan:
    """The plan of a slot in which `references` (name, signal) may be sent."""
    carrier = demodulator.carrier
    found = [(name, group) for name, signal in references for group in signal.pilots(carrier, slot_in_frame, frame)]
    symbols = tuple(sorted({symbol for _, group in found for symbol in group.symbols}))
    residues = _residues(demodulator, [group for _, group in found])
    streams: list[Stream] = []
    for name, group in found:
        streams += _streams(demodulator, name, group, symbols, slot_in_frame, residues)
    return SlotPlan(symbols, residues, demodulator.windows(slot_in_frame, symbols), tuple(streams))


def _residues(demodulator: OfdmDemodulator, groups: list[PilotGroup]) -> tuple[int, ...] | None:
    """Remainders modulo two of all bins, where every group keeps to one of them; a transform of half the length each.

    Both halves together cost no more than the whole.
    """
    found: set[int] = set()
    for group in groups:
        remainders = set((demodulator.bins(group.subcarriers) % 2).tolist())
        if len(remainders) > 1 or demodulator.fft % 2:
            return None
        found |= remainders
    return tuple(sorted(found)) if found else None


def _streams(
    demodulator: OfdmDemodulator,
    name: str,
    group: PilotGroup,
    symbols: tuple[int, ...],
    slot_in_frame: int,
    residues: tuple[int, ...] | None,
) -> list[Stream]:
    """A stream for each time cover in the group."""
    first = group.values[0]
    relative = group.values / first
    over_time = relative[:, :, 0] / relative[:, :1, 0]
    over_frequency = relative[:, 0, :]
    if not np.allclose(relative, over_time[:, :, None] * over_frequency[:, None, :], atol=1e-4):
        raise ValueError(f"the covers of {name} are no product of one over time and one over frequency")
    covers, which = np.unique(np.round(over_time, 4), axis=0, return_inverse=True)
    span = _span(covers)
    base = demodulator.coefficients(slot_in_frame, group.symbols, group.subcarriers)
    base = base * (first.conj() / np.abs(first) ** 2)
    starts_s = demodulator.carrier.symbol_starts_s(slot_in_frame % demodulator.carrier.slots_per_subframe)[
        list(group.symbols)
    ]
    times_s = starts_s.reshape(-1, span).mean(axis=1)
    tones_hz = demodulator.carrier.tones_hz(group.subcarriers)
    picks = np.array([symbols.index(symbol) for symbol in group.symbols])
    bins = demodulator.bins(group.subcarriers)
    if residues is not None:
        bins = residues.index(int(bins[0] % 2)) * (demodulator.fft // 2) + bins // 2
    elements = (name, group.ports, group.symbols, int(group.subcarriers[0]), len(group.subcarriers))
    streams = []
    for number, cover in enumerate(covers):
        members = np.flatnonzero(which.ravel() == number)
        ports = tuple(group.ports[member] for member in members)
        # Counted relative to the stream's first port, whose cover goes into the coefficients.
        lead = over_frequency[members[0]]
        coefficients = base * (cover[:, None] * lead).conj() / np.abs(lead) ** 2
        streams.append(
            Stream(
                name=name,
                ports=ports,
                picks=picks,
                bins=bins,
                coefficients=np.ascontiguousarray(coefficients, np.complex64),
                span=span,
                tones_hz=tones_hz,
                covers=np.asarray(over_frequency[members] / lead, np.complex128),
                times_s=times_s,
                symbol_times_s=starts_s,
                cover=np.asarray(cover, np.complex128),
                lead=np.asarray(lead, np.complex128),
                key=(name, ports, *elements[2:]),
                elements=elements,
            )
        )
    return streams


def _span(covers: npt.NDArray[np.complexfloating]) -> int:
    """Over how many symbols the covers [C, L] are orthogonal: that many are averaged into one."""
    if len(covers) == 1:
        return 1
    symbols = covers.shape[1]
    for span in (2, 4, 8):
        if symbols % span == 0:
            parts = covers.reshape(len(covers), -1, span)
            products = np.einsum("cps,dps->pcd", parts, parts.conj())
            if np.allclose(products, span * np.eye(len(covers)), atol=1e-3):
                return span
    raise ValueError("the covers over time are not orthogonal")


def picked(spectrum: Complex64, stream: Stream) -> Complex64:
    """What a slot's spectrum [A, U, N] holds of a stream. Shape [A, L / span, S]."""
    symbols, pilots = stream.coefficients.shape
    received = np.empty((1, len(spectrum), symbols // stream.span, pilots), np.complex64)
    first = np.zeros(1, np.int64)
    pick(
        spectrum, first, first, first, stream.picks[None], stream.bins[None], stream.coefficients[None], stream.span,
        received,
    )  # fmt: skip
    return np.asarray(received[0])


@kernel
def pick(
    spectrum: Complex64,
    begins: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    targets: npt.NDArray[np.int64],
    picks: npt.NDArray[np.int64],
    bins: npt.NDArray[np.int64],
    coefficients: Complex64,
    span: int,
    received: Complex64,
) -> None:
    """Received elements over what was sent, of m slots: into received[targets], [A, L / span, S] each.

    spectrum [A, W, N]: slots' windows from begins [m] on. rows [m]: of picks [P, L], bins [P, S] and coefficients
    [P, L, S]. Spans of symbols are averaged.
    """
    share = np.float32(1.0 / span)
    for index in range(len(begins)):
        row = rows[index]
        where = bins[row]
        # Folded, a comb lies in one or two runs of bins: without gathering, whole vector registers are filled.
        jump = len(where)
        jumps = 0
        for pilot in range(1, len(where)):
            if where[pilot] != where[pilot - 1] + 1:
                jump = pilot
                jumps += 1
        for antenna in range(spectrum.shape[0]):
            for symbol in range(picks.shape[1] // span):
                target = received[targets[index], antenna, symbol]
                for step in range(span):
                    each = symbol * span + step
                    source = spectrum[antenna, begins[index] + picks[row, each]]
                    weights = coefficients[row, each]
                    if span == 1 and jumps <= 1:
                        for begin, end in ((0, jump), (jump, len(where))):
                            if begin < end:
                                run = source[where[begin] : where[begin] + end - begin]
                                for pilot in range(end - begin):
                                    target[begin + pilot] = run[pilot] * weights[begin + pilot]
                    elif step == 0:
                        for pilot in range(len(where)):
                            target[pilot] = source[where[pilot]] * weights[pilot] * share
                    else:
                        for pilot in range(len(where)):
                            target[pilot] += source[where[pilot]] * weights[pilot] * share
