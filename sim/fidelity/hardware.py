"""The hardware knobs together, as one device that keeps its mismatch and its oscillators' phases."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sim.fidelity.amplifier import amplified
from sim.fidelity.array_errors import element_errors
from sim.fidelity.converter import quantised
from sim.fidelity.knobs import HardwareSettings
from sim.fidelity.phase_noise import PhaseNoise

Complex = npt.NDArray[np.complex128]


class Hardware:
    """An array of `elements` antennas with their chains. What it does is a function of settings and `rng` alone.

    rng: by default one seeded with `settings.seed`. The field of view is cut from paths by the tracer.
    """

    def __init__(self, settings: HardwareSettings, elements: int, rng: np.random.Generator | None = None) -> None:
        generator = rng or np.random.default_rng(settings.seed)
        self.settings = settings
        self.errors = element_errors(settings, elements, generator)
        oscillators = elements if settings.own_oscillators else 1
        self._noise = PhaseNoise(settings.linewidth_hz, oscillators, generator)

    def advance(self, seconds: float) -> None:
        """Let the oscillators drift."""
        self._noise.advance(seconds)

    def channel(self, h: npt.ArrayLike) -> Complex:
        """A channel [..., elements] with mismatch and the present phases; the linear part of what the device does."""
        return np.asarray(np.asarray(h) * self.errors * np.exp(1j * self._noise.phase_rad))

    def transmitted(self, samples: npt.ArrayLike, sample_rate_hz: float, rms: float | None = None) -> Complex:
        """What antennas radiate of samples [elements, S]: phase noise, amplifier, mismatch. rms: as for `amplified`."""
        given = np.asarray(samples, np.complex128)
        drifting = given * self._phasor(given.shape[-1], sample_rate_hz)
        if self.settings.amplifier is not None:
            drifting = amplified(drifting, self.settings.amplifier, rms)
        return np.asarray(drifting * self.errors[:, None])

    def received(self, samples: npt.ArrayLike, sample_rate_hz: float, rms: float | None = None) -> Complex:
        """What converters give of samples [elements, S] at the antennas: mismatch, phase noise, bits.

        rms: as for `quantised`; by default each element has a gain control of its own.
        """
        given = np.asarray(samples, np.complex128)
        drifting = given * self.errors[:, None] * self._phasor(given.shape[-1], sample_rate_hz)
        bits, loading_db = self.settings.adc_bits, self.settings.adc_loading_db
        if bits is None:
            return drifting
        return np.stack([quantised(row, bits, loading_db=loading_db, rms=rms) for row in drifting])

    def _phasor(self, samples: int, sample_rate_hz: float) -> Complex:
        if self.settings.linewidth_hz == 0:
            return np.ones((1, 1), np.complex128)
        return np.asarray(np.exp(1j * self._noise.over(samples, sample_rate_hz)))
