"""Channel estimation from pilots: least squares, and LMMSE over delay and time with a prior that is learnt on line.

One `PortEstimator` follows one set of ports that share resource elements, from slot to slot. Per slot it does two small
matrix products; what is costly (subspaces, fits of the prior) happens now and then. Every slot is tested: where the
pilots do not hold what the hypothesis (slot number, identity, cover) says, the received elements times the conjugate
pilots are white over frequency, and the estimate is refused.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv

from ingest.nr.delay_columns import DelayWindow
from ingest.nr.delay_prior import DelayPrior
from ingest.nr.envelope import Envelope
from ingest.nr.lmmse import (
    CFO_MEASURED,
    CONFIDENCE,
    ERROR_POWER,
    NOISE,
    LmmseFilter,
    SymbolCorrelation,
    build_filter,
    filter_slots,
    symbol_correlation,
    symbols_to_times,
    tell_slots,
)
from ingest.nr.motion import Motion
from ingest.nr.slot_estimate import Refusal, SlotEstimate

Complex64 = npt.NDArray[np.complex64]
Real = npt.NDArray[np.float64]

FALSE_ALARM = 1e-5
"""Probability that a slot without these pilots passes the test."""

_DENSE_SLOTS = 64
_SPARSEST_STRIDE = 32
_REFIT_SLOTS = 4096
"""The prior is learnt from each of the first 64 slots, then from ever fewer, down to every 32nd: slots that follow each
other show one and the same fading, and what was learnt from them would weigh too much. It is fitted after 1, 2, 4, ...
slots and then after every 4096."""

_AT_ONCE_SLOTS = 1024
"""Later fits are done a step at each slot that is learnt from: at once, a stream would wait for 15 ms at 106 PRBs."""

_RESUMED_SLOTS = 5
"""Where a channel that has left what was learnt is taken to be in that order: the next fit is three slots away, so that
two users who alternate on the same elements do not cost one each slot."""

_ROUNDS, _LATER_ROUNDS = 6, 3
"""Of a fit; fewer where it starts from much the same."""

_LOUD = 4.0
"""A slot without these pilots, but with so many times the noise, holds something else."""


class PortEstimator:
    """Estimates the channels of G ports that share pilots, from slot to slot.

    tones_hz [S]: the pilots' offsets from the carrier. covers [G, S]: what each port sends relative to the first.
    times_s [L]: when the pilot symbols are sent, after the slot's start. outputs_hz [O]: tones to estimate.
    within_s [X]: other times in the slot, for `within_spans`.
    Raises ValueError where the ports cannot be told apart within `window`.
    """

    def __init__(
        self,
        tones_hz: Real,
        covers: npt.NDArray[np.complexfloating],
        times_s: Real,
        outputs_hz: Real,
        window: DelayWindow,
        within_s: Real | None = None,
    ) -> None:
        self.prior = DelayPrior(tones_hz, np.asarray(covers, np.complex128), window)
        self.outputs_hz = outputs_hz
        self.motion = Motion(float(np.ptp(times_s)))
        self._times_s = times_s - times_s.mean()
        self._within_s = None if within_s is None else within_s - times_s.mean()
        self._within: Complex64 | None = None
        self._subspace = np.ascontiguousarray(self.prior.subspace.conj().T, np.complex64)
        self._filter: LmmseFilter | None = None
        self._slots = 0
        self._noise: float | None = None
        self._doppler_hz: float | None = None
        self._envelope = Envelope(self.prior.ports)
        self._k_factor_db: Real | None = None
        self._limits: dict[tuple[int, int], float] = {}
        self._correlation: SymbolCorrelation | None = None
        self._to_learn: tuple[int, Complex64] | None = None
        self._refit: Iterator[None] | None = None

    def estimate(self, received: Complex64, times_s: Real) -> list[SlotEstimate | Refusal]:
        """Estimate from received [n, A, L, S]: elements of n slots times the conjugate of what port 0 sent.

        times_s [n]: when the slots were, to know how fast the channel changes. What is found does not depend on how
        slots are dealt out to calls.
        """
        told: list[SlotEstimate | Refusal] = []
        while len(told) < len(received):
            self.catch_up()
            begin = len(told)
            end = begin + min(len(received) - begin, self._slots_to_learning + 1)
            told += self._estimate_alike(received[begin:end], times_s[begin:end])
        return told

    def catch_up(self) -> None:
        """Learn from the last slot, if that is due: now, as its estimate is out; else `estimate` does it next time."""
        if self._to_learn is not None:
            (slot, rows), self._to_learn = self._to_learn, None
            self._learn_if_fit(slot, rows)

    def within_spans(self, received: Complex64) -> Complex64 | None:
        """The pilots' channel at within_s from one slot's received [A, L, S]; None before anything was learnt.

        Shape [X, A, S].
        """
        if self._filter is None or self._within is None or self._within_s is None:
            return None
        antennas, symbols, pilots = received.shape
        analysis = self._filter.analysis
        modes = (analysis @ received.reshape(-1, pilots).T).reshape(-1, antennas, symbols)
        turns = [np.exp(2j * np.pi * self.motion.cfo_hz * times_s) for times_s in (self._times_s, self._within_s)]
        moved = self._within @ (modes * turns[0].conj().astype(np.complex64)).swapaxes(1, 2)
        moved *= turns[1].astype(np.complex64)[:, None]
        lines = moved.reshape(len(analysis), -1).T @ analysis.conj()
        return np.asarray(lines.reshape(-1, antennas, pilots))

    @property
    def _slots_to_learning(self) -> int:
        """Slots until the next one that the prior learns from; 0 where that is the next one of all."""
        return -self._slots % min(1 << (self._slots // _DENSE_SLOTS).bit_length(), _SPARSEST_STRIDE)

    def _estimate_alike(self, received: Complex64, times_s: Real) -> list[SlotEstimate | Refusal]:
        """Estimates of slots with one filter, up to the first refusal; the last may be one that is learnt from."""
        rows = received.reshape(len(received), -1, received.shape[3])
        taught = self._filter is None
        if taught:
            refusal = self._look_again(rows[0])
            if refusal is not None:
                return [refusal]
        told = self._estimate_rows(received, rows, times_s, taught=taught)
        if told or len(received) == 0:
            return told
        refusal = self._look_again(rows[0])  # perhaps the channel has left what was learnt
        if refusal is not None:
            return [refusal]
        return self._estimate_rows(received[:1], rows[:1], times_s[:1], taught=True) or [Refusal("absent")]

    def _estimate_rows(
        self, received: Complex64, rows: Complex64, times_s: Real, *, taught: bool
    ) -> list[SlotEstimate | Refusal]:
        """`_apply`, keeping what is to be learnt from; taught: the first slot was learnt from already."""
        learning, first = self._slots_to_learning, self._slots
        told = self._apply(received, rows, times_s)
        if learning < len(told) and not (taught and learning == 0):
            self._to_learn = first + learning, rows[learning]
        return told

    def _apply(self, received: Complex64, rows: Complex64, times_s: Real) -> list[SlotEstimate | Refusal]:
        """Estimates of the slots up to the first that fails the test."""
        found, symbol = self._filter, self._correlation
        assert found is not None
        assert symbol is not None
        slots, antennas, _, pilots = received.shape
        modes = found.analysis @ rows.reshape(-1, pilots).T
        count, ports = len(modes), self.prior.ports
        self.motion.begin(antennas, found.analysis)
        channel = np.empty((count, slots, antennas), np.complex64)
        told = np.empty((slots, ERROR_POWER + ports))
        passed = filter_slots(
            rows,
            modes,
            antennas,
            self._limit(found.strong, pilots),
            found.strong,
            found.variances,
            found.total,
            found.shape_power,
            found.left_out,
            symbol.eigenvalues,
            symbol.eigenvectors,
            symbol.middle,
            self._times_s,
            times_s,
            self.motion.state,
            self.motion.before,
            self.motion.products,
            self.motion.powers,
            channel,
            told,
        )
        if passed == 0:
            return []
        self._slots += passed
        self._noise = float(told[passed - 1, NOISE])
        lines = found.synthesis @ channel[:, :passed].reshape(count, -1)
        outputs = len(self.outputs_hz)
        cfr = np.empty((passed, ports, antennas, outputs), np.complex64)
        taps = np.empty((passed, ports, antennas, len(lines) // ports - outputs), np.complex64)
        snr_db, (squares, fourths) = np.empty((passed, ports)), np.empty((2, passed, ports, antennas))
        tell_slots(lines, told, cfr, taps, snr_db, squares, fourths)
        errors = told[:passed, ERROR_POWER:]
        self._envelope.follow(squares, fourths, errors)
        singles = told[:, :ERROR_POWER].tolist()
        return [
            SlotEstimate(
                cfr=cfr[slot],
                taps=taps[slot],
                error_power=errors[slot],
                ls=received[slot],
                noise_power=singles[slot][NOISE],
                snr_db=snr_db[slot],
                cfo_hz=singles[slot][CFO_MEASURED],
                delay_s=found.delay_s,
                delay_spread_s=found.delay_spread_s,
                doppler_hz=self._doppler_hz,
                k_factor_db=self._k_factor_db,
                confidence=singles[slot][CONFIDENCE],
            )
            for slot in range(passed)
        ]

    def _look_again(self, rows: Complex64) -> Refusal | None:
        """Test rows [A L, S] over the whole window, and learn from them anew unless they are refused."""
        projected = self._subspace @ rows.T
        noise_power = self._test(rows, projected, self.prior.strong)
        if noise_power is None:
            energy = float(np.vdot(rows, rows).real)
            loud = self._noise is not None and energy > _LOUD * self._noise * rows.size
            return Refusal("contradicted" if loud else "absent")
        self.prior.doubt()
        self._slots = min(self._slots, _RESUMED_SLOTS)
        self._filter = None
        self._learn(self._slots, projected, noise_power)
        return None

    def _learn_if_fit(self, slot: int, rows: Complex64) -> None:
        """Learn from rows [A L, S] if they pass the test by what is known already."""
        assert self._filter is not None
        noise_power = self._test(rows, self._filter.analysis @ rows.T, self._filter.strong)
        if noise_power is not None:
            self._learn(slot, self._subspace @ rows.T, noise_power)

    def _test(self, rows: Complex64, projected: Complex64, strong: int) -> float | None:
        """Noise power per element of rows [n, S]; None where noise alone could have looked like this.

        Of white noise the share of energy in r of S dimensions is Beta(r, S - r) over all rows. It is judged by the
        `strong` last directions of projected [r, n], where there is something to see.
        """
        count, pilots = rows.shape
        rank = len(projected)
        energy = float(np.vdot(rows, rows).real)
        if not 0.0 < energy < np.inf:
            return None
        judged = projected[rank - strong :]
        if float(np.vdot(judged, judged).real) < energy * self._limit(strong, pilots):
            return None
        outside = energy - float(np.vdot(projected, projected).real)
        return float(max(outside, 1e-9 * energy) / ((pilots - rank) * count))

    def _limit(self, strong: int, pilots: int) -> float:
        """The share of energy in `strong` of as many dimensions as pilots that noise exceeds by a false alarm only.

        Other pilots than those looked for make the same noise on all antennas, and those of the other n_SCID the same
        on all symbols of all slots: neither counts as independent. Counting antennas, a wrong identity passed one slot
        in ten at eight of them; counting symbols, the other n_SCID could pass for good.
        """
        key = (strong, pilots)
        if key not in self._limits:
            self._limits[key] = float(betaincinv(strong, pilots - strong, 1.0 - FALSE_ALARM))
        return self._limits[key]

    def _learn(self, slot: int, projected: Complex64, noise_power: float) -> None:
        """Teach the prior by the slot of that number, and make its filter anew when it has changed."""
        prior = self.prior
        antennas = projected.shape[1] // len(self._times_s)
        prior.observe(projected, noise_power, antennas)
        self._doppler_hz = self.motion.doppler_hz
        self._k_factor_db = self._envelope.k_factor_db(self._doppler_hz, self.motion.lag_s)
        at_once = False
        due = slot & (slot - 1) == 0 or slot % _REFIT_SLOTS == 0
        rounds = (_ROUNDS if slot < _REFIT_SLOTS else _LATER_ROUNDS) if due else 0
        if due or self._filter is None or noise_power < 0.4 * self._filter.noise_power:
            self._refit = self._refitted(rounds, antennas, noise_power)
            at_once = slot < _AT_ONCE_SLOTS or not due or self._filter is None
        if self._refit is not None:
            for _ in self._refit:
                if not at_once:
                    return
            self._refit = None

    def _refitted(self, rounds: int, antennas: int, noise_power: float) -> Iterator[None]:
        """Fit the prior where there are rounds to do, then make the filter anew: step by step."""
        if rounds:
            yield from self.prior.fit(rounds)
        self._filter = build_filter(self.prior, self.outputs_hz, noise_power)
        self.motion.begin(antennas, self._filter.analysis)
        motion = self.motion.modes(antennas, noise_power)
        self._correlation = symbol_correlation(self._times_s, motion)
        if self._within_s is not None:
            self._within = symbols_to_times(
                self._correlation, self._times_s, self._within_s, motion, self._filter.variances / noise_power
            )
