"""Channel estimation from pilots: least squares, and LMMSE over delay and time with a prior that is learnt on line.

One `PortEstimator` follows one set of ports that share resource elements, from slot to slot. Per slot it does two small
matrix products; what is costly (subspaces, fits of the prior) happens now and then. Every slot is tested: where the
pilots do not hold what the hypothesis (slot number, identity, cover) says, the received elements times the conjugate
pilots are white over frequency, and the estimate is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv

from ingest.nr.delay_prior import DelayPrior, DelayWindow
from ingest.nr.lmmse import LmmseFilter, build_filter, energies, line_powers, symbol_correlation, turn, weigh
from ingest.nr.motion import Motion

Complex64 = npt.NDArray[np.complex64]
Real = npt.NDArray[np.float64]

FALSE_ALARM = 1e-5
"""Probability that a slot without these pilots passes the test."""

_DENSE_OBSERVATIONS = 64
_SPARSE_STRIDE = 16
_REFIT_STRIDE = 64
"""The prior is learnt from each of the first 64 slots, from every 16th later; it is fitted after 1, 2, 4, ... and then
after every 64 of them, when its covariance has had time to change."""

_ROUNDS = 12
_CFO_GAIN = 0.2
_MAX_SCALE = 4.0


class SlotEstimate(msgspec.Struct, frozen=True, eq=False):
    """What one slot's pilots told of G ports, seen by A antennas.

    cfr [G, A, O]: LMMSE channel on the output tones, at the middle of the pilot symbols. error_power [G]: its expected
    squared error per entry. ls [A, L, S]: received pilots over what port 0 sent; with one port the least-squares
    channel. noise_power: per resource element. snr_db [G]: per resource element. cfo_hz: carrier offset over all
    antennas, on top of what was taken out before. delay_s, delay_spread_s [G]: mean and RMS by the prior. doppler_hz:
    maximum Doppler shift of a Clarke spectrum, None until it is known. confidence: share of the received energy that is
    no noise, 0 to 1.
    """

    cfr: Complex64
    error_power: Real
    ls: Complex64
    noise_power: float
    snr_db: Real
    cfo_hz: float
    delay_s: Real
    delay_spread_s: Real
    doppler_hz: float | None
    confidence: float


@dataclass(frozen=True)
class Refusal:
    """Why a slot yields no estimate: "absent" where no more than noise was received, else "contradicted"."""

    reason: str


class PortEstimator:
    """Estimates the channels of G ports that share pilots, from slot to slot.

    tones_hz [S]: the pilots' offsets from the carrier. covers [G, S]: what each port sends relative to the first.
    times_s [L]: when the pilot symbols are sent, after the slot's start. outputs_hz [O]: tones to estimate.
    Raises ValueError where the ports cannot be told apart within `window`.
    """

    def __init__(
        self,
        tones_hz: Real,
        covers: npt.NDArray[np.complexfloating],
        times_s: Real,
        outputs_hz: Real,
        window: DelayWindow,
    ) -> None:
        self.prior = DelayPrior(tones_hz, np.asarray(covers, np.complex128), window)
        self.outputs_hz = outputs_hz
        self.cfo_hz = 0.0
        self._times_s = times_s - times_s.mean()
        self._subspace = np.ascontiguousarray(self.prior.subspace.conj().T, np.complex64)
        self._filter: LmmseFilter | None = None
        self._slots = 0
        self._noise: float | None = None
        self._motion = Motion(float(np.ptp(times_s)))
        self._limits: dict[tuple[int, int], float] = {}
        self._correlation = symbol_correlation(self._times_s, 0.0)

    @property
    def doppler_hz(self) -> float | None:
        """Maximum Doppler shift of the Clarke spectrum that decorrelates the channel as seen; None until known."""
        return self._motion.doppler_hz

    def estimate(self, received: Complex64, time_s: float) -> SlotEstimate | Refusal:
        """Estimate from received [A, L, S]: resource elements times the conjugate of what port 0 sent.

        time_s: when the slot was, to know how fast the channel changes.
        """
        antennas, symbols, pilots = received.shape
        seen = self._see(received.reshape(-1, pilots))
        if isinstance(seen, Refusal):
            return seen
        flat, noise_power, confidence = seen
        found = self._filter
        assert found is not None
        self._slots += 1
        self._noise = noise_power
        modes = flat.reshape(-1, antennas, symbols)
        cfo_hz = self._follow_phase(modes)
        energy = self._motion.observe(modes, noise_power, time_s, found)
        variances = found.variances
        scale = self._scale(energy / (antennas * symbols) - len(modes) * noise_power)
        if scale != 1.0:
            variances = variances * scale
        symbol = self._correlation
        channel, remaining = weigh(
            modes, variances, noise_power, symbol.eigenvalues, symbol.eigenvectors, symbol.middle
        )
        ports = self.prior.ports
        lines = found.synthesis @ channel
        error_power = found.shape_power @ remaining + found.left_out
        snr = (line_powers(lines, ports) + error_power) / noise_power
        return SlotEstimate(
            cfr=lines.reshape(ports, -1, antennas).transpose(0, 2, 1),
            error_power=error_power,
            ls=received,
            noise_power=noise_power,
            snr_db=10 * np.log10(snr),
            cfo_hz=cfo_hz,
            delay_s=found.delay_s,
            delay_spread_s=found.delay_spread_s,
            doppler_hz=self.doppler_hz,
            confidence=confidence,
        )

    def _see(self, rows: Complex64) -> tuple[Complex64, float, float] | Refusal:
        """Modes [q, rows] of pilots rows [rows, S], noise power and confidence, once the slot has passed the test."""
        if self._filter is not None:
            modes = self._filter.analysis @ rows.T
            verdict = self._test(rows, modes, self._filter.strong)
            if not isinstance(verdict, Refusal):
                if self._slots < _DENSE_OBSERVATIONS or self._slots % _SPARSE_STRIDE == 0:
                    before = self._filter
                    self._learn(self._subspace @ rows.T, verdict[0])
                    modes = modes if self._filter is before else self._filter.analysis @ rows.T
                return modes, *verdict
        projected = self._subspace @ rows.T
        verdict = self._test(rows, projected, len(projected))
        if isinstance(verdict, Refusal):
            return verdict
        self.prior.doubt()  # nothing was learnt yet, or the channel has left what was
        self._filter = None
        self._learn(projected, verdict[0])
        assert self._filter is not None
        return self._filter.analysis @ rows.T, *verdict

    def _test(self, rows: Complex64, projected: Complex64, strong: int) -> tuple[float, float] | Refusal:
        """Noise power per element and confidence; a refusal where noise alone could have looked like this.

        Of white noise the share of energy in r of S dimensions is Beta(r, S - r) over all rows. It is judged by the
        `strong` last directions, where there is something to see.
        """
        count, pilots = rows.shape
        rank = len(projected)
        energy, inside, judged = energies(rows, projected, strong)
        if not 0.0 < energy < np.inf:
            return Refusal("absent")
        noise_power = max(energy - inside, 1e-9 * energy) / ((pilots - rank) * count)
        if judged / energy < self._limit(strong * count, (pilots - strong) * count):
            known = self._noise
            return Refusal("contradicted" if known is not None and noise_power > 4.0 * known else "absent")
        return noise_power, max(0.0, 1.0 - pilots * count * noise_power / energy)

    def _limit(self, inside: int, outside: int) -> float:
        key = (inside, outside)
        if key not in self._limits:
            self._limits[key] = float(betaincinv(inside, outside, 1.0 - FALSE_ALARM))
        return self._limits[key]

    def _learn(self, projected: Complex64, noise_power: float) -> None:
        """Teach the prior, and make its filter anew when it has changed."""
        prior = self.prior
        prior.observe(projected, noise_power)
        count = prior.observations
        due = count % _REFIT_STRIDE == 0 or (count < _REFIT_STRIDE and count & (count - 1) == 0)
        if due:
            prior.fit(_ROUNDS)
            self._correlation = symbol_correlation(self._times_s, self._motion.doppler_within_slot_hz)
        if due or self._filter is None or noise_power < 0.4 * self._filter.noise_power:
            self._filter = build_filter(prior, self.outputs_hz, noise_power)

    def _follow_phase(self, modes: Complex64) -> float:
        """Take the tracked offset out of modes [q, A, L], in place; the offset measured in this slot."""
        if len(self._times_s) == 1:
            return 0.0
        left_hz = turn(modes, self._times_s, self.cfo_hz)
        measured_hz = self.cfo_hz + left_hz
        if self._slots == 1:
            turn(modes, self._times_s, left_hz)
            self.cfo_hz = measured_hz
        else:
            self.cfo_hz += _CFO_GAIN * left_hz
        return measured_hz

    def _scale(self, power: float) -> float:
        """By how much the slot's power differs from the prior's, where it differs by more than fading makes likely."""
        assert self._filter is not None
        ratio = max(power / self._filter.total, 1e-3)
        return ratio if not 1.0 / _MAX_SCALE < ratio < _MAX_SCALE else 1.0
