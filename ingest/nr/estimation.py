"""Channel estimation from pilots: least squares, and LMMSE over delay and time with a prior that is learnt on line.

One `PortEstimator` follows one set of ports that share resource elements, from slot to slot. Per slot it does two small
matrix products; what is costly (subspaces, fits of the prior) happens now and then. Every slot is tested: where the
pilots do not hold what the hypothesis (slot number, identity, cover) says, the received elements times the conjugate
pilots are white over frequency, and the estimate is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv, j0

from ingest.nr.delay_prior import DelayPrior, DelayWindow
from ingest.nr.motion import Motion

Complex64 = npt.NDArray[np.complex64]
Real = npt.NDArray[np.float64]

FALSE_ALARM = 1e-5
"""Probability that a slot without these pilots passes the test."""

_MODE_FLOOR = 0.02
"""Directions of the prior with less power than this share of the noise are left out of the filter: they could only be
set to nearly zero."""

_DENSE_OBSERVATIONS = 64
_SPARSE_STRIDE = 8
_FIT_STRIDE, _REFIT_STRIDE = 4, 64
"""The prior is learnt from each of the first 64 slots, from every eighth later; it is fitted anew after so many of
them, when its covariance has had time to change."""

_ROUNDS = 6
_STRONG = 0.5
"""Directions whose prior power exceeds this share of the noise decide whether the slot is what it should be."""

_CFO_GAIN = 0.2
_MAX_SCALE_DB = 6.0


@dataclass(frozen=True)
class SlotEstimate:
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


@dataclass
class _Filter:
    """The LMMSE filter of one prior.

    analysis [q, S]: pilots to modes. variances [q]: prior power of each mode, ascending. synthesis [G, O, q]: modes to
    output tones. shape_power [G, q]: squared norm per output tone of each mode. noise_power: what it was cut at.
    strong: how many of the last modes stand out of the noise.
    """

    analysis: Complex64
    variances: Real
    synthesis: Complex64
    shape_power: Real
    noise_power: float
    strong: int


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
        self._filter: _Filter | None = None
        self._slots = 0
        self._noise: float | None = None
        self._motion = Motion(float(np.ptp(times_s)))
        self._limits: dict[tuple[int, int], float] = {}
        self._eigenvalues, self._eigenvectors = self._time_modes()

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
        modes, noise_power, confidence = seen
        assert self._filter is not None
        self._slots += 1
        self._noise = noise_power
        modes = modes.reshape(-1, antennas, symbols)
        cfo_hz = self._follow_phase(modes)
        self._motion.observe(modes, noise_power, time_s, self._filter)
        weights, error_power = self._weights(modes, noise_power)
        channel = np.einsum("qal,ql->qa", modes, weights)
        cfr = np.matmul(self._filter.synthesis, channel)
        power = np.mean(np.abs(cfr) ** 2, axis=(1, 2)) + error_power
        moments = np.array([self.prior.moments_s(port) for port in range(self.prior.ports)])
        return SlotEstimate(
            cfr=np.ascontiguousarray(cfr.transpose(0, 2, 1)),
            error_power=error_power,
            ls=received,
            noise_power=noise_power,
            snr_db=10 * np.log10(power / noise_power),
            cfo_hz=cfo_hz,
            delay_s=moments[:, 0],
            delay_spread_s=moments[:, 1],
            doppler_hz=self.doppler_hz,
            confidence=confidence,
        )

    def _see(self, rows: Complex64) -> tuple[Complex64, float, float] | Refusal:
        """Modes [q, rows] of pilots rows [rows, S], noise power and confidence, once the slot has passed the test."""
        energy = float(np.vdot(rows, rows).real)
        if not 0.0 < energy < np.inf:
            return Refusal("absent")
        if self._filter is not None:
            modes = self._filter.analysis @ rows.T
            verdict = self._test(energy, modes, self._filter.strong, rows.shape)
            if not isinstance(verdict, Refusal):
                if self._slots < _DENSE_OBSERVATIONS or self._slots % _SPARSE_STRIDE == 0:
                    self._learn(self._subspace @ rows.T, verdict[0])
                    modes = self._filter.analysis @ rows.T
                return modes, *verdict
        projected = self._subspace @ rows.T
        verdict = self._test(energy, projected, len(projected), rows.shape)
        if isinstance(verdict, Refusal):
            return verdict
        self.prior.doubt()  # nothing was learnt yet, or the channel has left what was
        self._learn(projected, verdict[0])
        assert self._filter is not None
        return self._filter.analysis @ rows.T, *verdict

    def _test(
        self, energy: float, projected: Complex64, strong: int, shape: tuple[int, ...]
    ) -> tuple[float, float] | Refusal:
        """Noise power per element and confidence; a refusal where noise alone could have looked like this.

        Of white noise the share of energy in r of S dimensions is Beta(r, S - r) over all rows. It is judged by the
        `strong` last directions, where there is something to see.
        """
        rows, pilots = shape
        rank = len(projected)
        inside = float(np.vdot(projected, projected).real)
        noise_power = max(energy - inside, 1e-9 * energy) / ((pilots - rank) * rows)
        judged = projected[rank - strong :]
        share = float(np.vdot(judged, judged).real) / energy
        if share < self._limit(strong * rows, (pilots - strong) * rows):
            known = self._noise
            return Refusal("contradicted" if known is not None and noise_power > 4.0 * known else "absent")
        return noise_power, max(0.0, 1.0 - pilots * rows * noise_power / energy)

    def _limit(self, inside: int, outside: int) -> float:
        key = (inside, outside)
        if key not in self._limits:
            self._limits[key] = float(betaincinv(inside, outside, 1.0 - FALSE_ALARM))
        return self._limits[key]

    def _learn(self, projected: Complex64, noise_power: float) -> None:
        """Teach the prior, and make its filter anew when it has changed."""
        prior = self.prior
        prior.observe(projected.astype(np.complex128), noise_power)
        count = prior.observations
        due = count <= 4 or count % (_FIT_STRIDE if count < _DENSE_OBSERVATIONS else _REFIT_STRIDE) == 0
        if due:
            prior.fit(_ROUNDS)
            self._eigenvalues, self._eigenvectors = self._time_modes()
        if due or self._filter is None or noise_power < 0.4 * self._filter.noise_power:
            self._filter = self._build_filter(noise_power)

    def _build_filter(self, noise_power: float) -> _Filter:
        """Prior covariance = V diag(variances) V^H; the filter of output and mode follows from the cross-covariance."""
        prior = self.prior
        variances, vectors = np.linalg.eigh(prior.covariance())
        kept = variances > _MODE_FLOOR * noise_power
        kept[-1] = True
        variances, vectors = variances[kept], vectors[:, kept]
        synthesis = np.stack([prior.cross_covariance(port, self.outputs_hz) @ vectors for port in range(prior.ports)])
        synthesis /= variances
        return _Filter(
            np.ascontiguousarray((prior.subspace @ vectors).conj().T, np.complex64),
            variances,
            np.ascontiguousarray(synthesis, np.complex64),
            np.asarray(np.mean(np.abs(synthesis) ** 2, axis=1)),
            noise_power,
            max(int(np.count_nonzero(variances > _STRONG * noise_power)), 1),
        )

    def _time_modes(self) -> tuple[Real, Real]:
        """Eigenvalues [L] and eigenvectors [L, L] of the symbols' correlation, by the Doppler that is known."""
        doppler_hz = self._motion.doppler_within_slot_hz
        apart_s = self._times_s[:, None] - self._times_s
        eigenvalues, eigenvectors = np.linalg.eigh(j0(2 * np.pi * doppler_hz * apart_s))
        self._middle = j0(2 * np.pi * doppler_hz * self._times_s)
        return np.maximum(eigenvalues, 0.0), eigenvectors

    def _follow_phase(self, modes: Complex64) -> float:
        """Take the tracked offset out of modes [q, A, L], in place; the offset measured in this slot."""
        if len(self._times_s) == 1:
            return 0.0
        if self.cfo_hz:
            modes *= np.exp(-2j * np.pi * self.cfo_hz * self._times_s).astype(np.complex64)
        turned = np.einsum("qal,qal->l", modes[..., :-1].conj(), modes[..., 1:])
        apart_s = np.diff(self._times_s)
        weight = np.abs(turned) * apart_s
        left_hz = float(weight @ np.angle(turned) / max(weight @ apart_s, 1e-300)) / (2 * np.pi)
        measured_hz = self.cfo_hz + left_hz
        if self._slots == 1:
            modes *= np.exp(-2j * np.pi * left_hz * self._times_s).astype(np.complex64)
            self.cfo_hz = measured_hz
        else:
            self.cfo_hz += _CFO_GAIN * left_hz
        return measured_hz

    def _weights(self, modes: Complex64, noise_power: float) -> tuple[npt.NDArray[np.float32], Real]:
        """Wiener weights [q, L] from the symbols to their middle, and the error power [G] that remains.

        Mode i has prior variance v_i and correlation R = E diag(d) E^T over the symbols, so its weights are
        v_i r^T (v_i R + n I)^-1 = r^T E diag(v_i / (v_i d + n)) E^T.
        """
        found = self._filter
        assert found is not None
        variances = found.variances * self._scale(modes, noise_power)
        middle = self._eigenvectors.T @ self._middle
        gains = variances[:, None] / (variances[:, None] * self._eigenvalues + noise_power)
        weights = (gains * middle) @ self._eigenvectors.T
        remaining = variances * (1.0 - gains @ middle**2)
        left_out = np.maximum(self.prior.powers.sum(axis=1) - found.shape_power @ found.variances, 0.0)
        return weights.astype(np.float32), found.shape_power @ np.maximum(remaining, 0.0) + left_out

    def _scale(self, modes: Complex64, noise_power: float) -> float:
        """By how much the slot's power differs from the prior's, where it differs by more than fading makes likely."""
        found = self._filter
        assert found is not None
        expected = float(found.variances.sum())
        seen = float(np.vdot(modes, modes).real) / (modes.shape[1] * modes.shape[2]) - len(modes) * noise_power
        ratio = max(seen, 1e-3 * expected) / expected
        limit = 10 ** (_MAX_SCALE_DB / 10)
        return ratio if not 1.0 / limit < ratio < limit else 1.0
