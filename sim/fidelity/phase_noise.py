"""Phase noise of free-running oscillators: a Wiener process, whose line is a Lorentzian.

Steps over t seconds have the variance 2 pi B t for a line of full width B at half maximum, so that
E exp(j (phase(s + t) - phase(s))) = exp(-pi B |t|) (A. Demir, A. Mehrotra, J. Roychowdhury, "Phase noise in
oscillators", IEEE Trans. Circuits Syst. I 47, 2000). Locked oscillators, whose phase stays bounded as by the spectra of
3GPP TR 38.803, are not modelled.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ingest.errors import UsageRefused

Real = npt.NDArray[np.float64]


@dataclass
class PhaseNoise:
    """Phases of `oscillators` independent oscillators, all 0 in the beginning. A function of `rng` alone."""

    linewidth_hz: float
    oscillators: int
    rng: np.random.Generator
    phase_rad: Real = field(init=False)

    def __post_init__(self) -> None:
        if not self.linewidth_hz >= 0 or self.oscillators < 1:
            what = f"a line of {self.linewidth_hz} Hz, {self.oscillators} oscillators"
            raise UsageRefused(what, where="phase noise", mend="no width below 0, and at least one oscillator")
        self.phase_rad = np.zeros(self.oscillators)

    def advance(self, seconds: float) -> Real:
        """The phases [oscillators] after `seconds`, which are then the present ones."""
        self.phase_rad = self.phase_rad + np.sqrt(self._variance(seconds)) * self.rng.normal(size=self.oscillators)
        return self.phase_rad

    def over(self, samples: int, sample_rate_hz: float) -> Real:
        """The phases at the next samples, going on from the present ones. Shape [oscillators, samples]."""
        steps = np.sqrt(self._variance(1 / sample_rate_hz)) * self.rng.normal(size=(self.oscillators, samples))
        phases = self.phase_rad[:, None] + np.cumsum(steps, axis=1)
        if samples:
            self.phase_rad = phases[:, -1].copy()
        return np.asarray(phases)

    def _variance(self, seconds: float) -> float:
        return 2 * np.pi * self.linewidth_hz * seconds
