"""What frames say of the phases between a radio's antennas, and the calibration that is divided out of them."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from ingest.antenna_calibration import AntennaCalibration
from ingest.errors import UsageRefused
from ingest.nr.impulse import impulse_response
from ingest.nr.phase_watch import PhaseWatch

Complex64 = npt.NDArray[np.complex64]
Phases = Literal["calibrated", "uncalibrated", "drifting"]

_UNSETTLED_S = 10.0
"""After a jump frames say "drifting" for so long."""

_MOST_PLACES = 256


class Undone(msgspec.Struct, frozen=True, eq=False):
    """A channel as alike antennas would have seen it: cfr [A, S], cir [A, T]; its error's power gains by it."""

    cfr: Complex64
    cir: Complex64
    error_gain: float
    phases: Phases | None


@dataclass
class AntennaPhases:
    """Calibrates the channels of one radio, and watches whether its antennas' clocks run together.

    calibrations: the first that holds for the radio and its tuning is used. Once phases have drifted or jumped, none
    is, until another stream begins: nobody knows how far they have gone.
    """

    calibrations: tuple[AntennaCalibration, ...] = ()
    watch: PhaseWatch = field(default_factory=PhaseWatch, init=False)
    _used: AntennaCalibration | None = field(default=None, init=False)
    _antennas: int = field(default=0, init=False)
    _void: bool = field(default=False, init=False)
    _places: dict[Hashable, Complex64 | None] = field(default_factory=dict, init=False)

    def begin(self, radio: str, center_hz: float, antennas: int) -> None:
        """Another stream begins. `UsageRefused` where the first one's calibration is of another number of antennas."""
        is_first = self._antennas == 0
        self.watch.restart()
        self._void = False
        self._places.clear()
        self._antennas = antennas
        self._used = next((one for one in self.calibrations if one.holds_for(radio, center_hz)), None)
        if self._used is not None and self._used.antennas != antennas and not is_first:
            self._used = None  # a sender that changes while we run ends nothing
        elif self._used is not None and self._used.antennas != antennas:
            raise UsageRefused(
                f"the calibration is of {self._used.antennas} antennas, radio {radio} has {antennas}",
                where="[receiver] antenna_calibrations",
                mend="calibrate the antennas that are received, in their order",
            )

    def undo(
        self, cfr: Complex64, cir: Complex64, place: Hashable, frequencies_hz: npt.NDArray[np.float64], time_s: float
    ) -> Undone:
        """Channel cfr [A, S] at frequencies_hz [S] in the air, impulse response cir [A, T], as received at time_s.

        place: the same wherever the frequencies are.
        """
        self._antennas = len(cfr)
        phases = self._phases(time_s)
        if self._used is None or self._void:
            return Undone(cfr, cir, 1.0, phases)
        if place not in self._places:
            if len(self._places) >= _MOST_PLACES:
                self._places.clear()
            self._places[place] = self._used.factors(frequencies_hz)
        factors = self._places[place]
        if factors is None:
            return Undone(cfr, cir, 1.0, phases and "uncalibrated")
        alike = cfr * factors
        taps = cir * factors if factors.shape[1] == 1 or not cir.shape[1] else impulse_response(alike)
        return Undone(alike, taps, float(np.mean(factors.real**2 + factors.imag**2)), phases)

    def _phases(self, time_s: float) -> Phases | None:
        """What is to be said of phases at time_s; None of a single antenna, which has none."""
        if self._antennas < 2:
            return None
        jumped = bool(self.watch.jumps) and time_s - self.watch.jumps[-1].time_s < _UNSETTLED_S
        self._void |= self.watch.rates_hz is not None or bool(self.watch.jumps)
        if self.watch.rates_hz is not None or jumped:
            return "drifting"
        return "calibrated" if self._used is not None and not self._void else "uncalibrated"

    def summary(self) -> dict[str, Any] | None:
        """For people: `phases`, `told_by` transmitters, `rates_hz`, `jumps`; None of a single antenna."""
        phases = self._phases(np.inf)
        if phases is None:
            return None
        told: dict[str, Any] = {"phases": phases, "told_by": self.watch.transmitters}
        if self.watch.rates_hz is not None:
            told["rates_hz"] = [round(float(one), 4) for one in self.watch.rates_hz]
        if self.watch.jumps:
            told["jumps"] = [
                {"time_s": round(jump.time_s, 4), "step_rad": [round(float(one), 3) for one in jump.step_rad]}
                for jump in self.watch.jumps[-10:]
            ]
        return told
