"""From the elements of a signal's streams to estimates, and what orthogonal covers over time need beside.

Two ports on a cover over time are told apart by summing the symbols it spans. That is exact only where the channel
stands still from the first to the last of them; where it does not, a share of each port arrives at the others: 40 dB
below it at 117 Hz of Doppler and 30 kHz spacing, 25 dB with a carrier offset of 500 Hz. Each port's motion is tracked,
though, so what it does within a span is told by its estimates on all spans of the slot, and taken off the others.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from ingest.nr.delay_columns import DelayWindow
from ingest.nr.estimation import PortEstimator
from ingest.nr.slot_estimate import Refusal, SlotEstimate
from ingest.nr.slot_plan import Stream

Complex64 = npt.NDArray[np.complex64]
Real = npt.NDArray[np.float64]

_ROUNDS = 3
"""What is taken off a port was told with what the others leave on it; twice more is enough to
1 kHz of carrier offset."""


def stream_estimator(stream: Stream, outputs_hz: Real, window: DelayWindow) -> PortEstimator:
    """The estimator that follows a stream. Raises ValueError where its ports cannot be told apart."""
    within_s = None if stream.span == 1 else _moments_s(stream)
    return PortEstimator(stream.tones_hz, stream.covers, stream.times_s, outputs_hz, window, within_s)


def estimate_streams(
    estimators: Sequence[PortEstimator], streams: Sequence[Stream], received: Sequence[Complex64], times_s: Real
) -> list[list[SlotEstimate | Refusal]]:
    """Estimates of the n slots at times_s [n] for each of the streams that share elements.

    received: [n, A, L / span, S] of each stream, as `slot_plan.pick` yields it.
    """
    if len(streams) == 1:
        return [estimators[0].estimate(received[0], times_s)]
    weights, ratios = _leaks(streams)
    told: list[list[SlotEstimate | Refusal]] = [[] for _ in streams]
    for slot in range(len(times_s)):  # one by one: what is taken off depends on what is known by then
        raw = [each[slot] for each in received]
        cleaned = raw
        for _ in range(_ROUNDS):
            cleaned = _cleaned(estimators, raw, cleaned, weights, ratios)
        for number, estimator in enumerate(estimators):
            estimate = estimator.estimate(cleaned[number][None], times_s[slot : slot + 1])[0]
            if isinstance(estimate, SlotEstimate):
                estimate = msgspec.structs.replace(estimate, ls=raw[number])
            told[number].append(estimate)
    return told


def _moments_s(stream: Stream) -> Real:
    """The times of each span's symbols and, last, of its middle, one span after the other."""
    symbols_s = stream.symbol_times_s.reshape(-1, stream.span)
    return np.concatenate([symbols_s, stream.times_s[:, None]], axis=1).ravel()


def _leaks(streams: Sequence[Stream]) -> tuple[Complex64, Complex64]:
    """What stream d puts on stream c beside c's channel in the spans' middles.

    Weights [C, C, P, span + 1] of d's channel at `_moments_s`, ratios [C, C, S] of what both send over frequency.
    """
    span = streams[0].span
    covers = np.stack([stream.cover.reshape(-1, span) for stream in streams])
    leads = np.stack([stream.lead for stream in streams])
    weights = np.zeros((len(streams), *covers.shape[:2], span + 1), np.complex64)
    weights[..., :span] = covers.conj()[:, None] * covers / span
    every = np.arange(len(streams))
    weights[every, every, :, span] = -1.0
    ratios = leads.conj()[:, None] * leads / (np.abs(leads) ** 2)[:, None]
    return weights, ratios.astype(np.complex64)


def _cleaned(
    estimators: Sequence[PortEstimator],
    raw: Sequence[Complex64],
    cleaned: Sequence[Complex64],
    weights: Complex64,
    ratios: Complex64,
) -> list[Complex64]:
    """raw [C][A, P, S] less what every stream, as told by `cleaned`, leaves on each by moving within a span."""
    found = [each.copy() for each in raw]
    for source, estimator in enumerate(estimators):
        moved = estimator.within_spans(cleaned[source])
        if moved is None:
            continue
        moved = moved.reshape(*weights.shape[2:], *moved.shape[1:])
        for target, each in enumerate(found):
            left = np.einsum("pk,pkas->aps", weights[target, source], moved)
            each -= ratios[target, source] * left
    return found
