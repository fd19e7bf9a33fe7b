"""How a radio's antennas differ in gain and phase: a small JSON file, and what undoes the differences.

```json
{"schema": "twinbeam.antennas/1", "gains_db": [0.0, -0.4], "phases_rad": [0.0, 1.31], "center_hz": 3.5e9}
```

Antenna a receives 10^(gains_db / 20) exp(j phases_rad) times what it would if all were alike. Over frequency every
entry is a list, one value for each of `frequencies_hz`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from ingest.errors import InputRefused
from ingest.messages import Name

SCHEMA: Final = "twinbeam.antennas/1"
_MAX_BYTES = 1 << 24
_MOST_ANTENNAS, _MOST_FREQUENCIES = 1024, 4096
_MOST_DB, _MOST_RAD = 120.0, 1e6
_TUNING_HZ = 1.0

Decibel = Annotated[float, msgspec.Meta(ge=-_MOST_DB, le=_MOST_DB)]
Radian = Annotated[float, msgspec.Meta(ge=-_MOST_RAD, le=_MOST_RAD)]
Hertz = Annotated[float, msgspec.Meta(ge=0, le=1e12)]


class AntennaCalibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What each of A antennas makes of what arrives.

    gains_db, phases_rad [A], or [A][F] with frequencies_hz [F] in the air, ascending. center_hz: the tuning at which
    it was measured and alone holds (phase-locked loops start anew at every other), None for any. radio: the source of
    IQ that it is of, None for any. phase_errors_rad [A]: one standard error. made_from: for people.
    """

    format: Literal["twinbeam.antennas/1"] = msgspec.field(name="schema")
    gains_db: tuple[Decibel | tuple[Decibel, ...], ...]
    phases_rad: tuple[Radian | tuple[Radian, ...], ...]
    frequencies_hz: tuple[Hertz, ...] = ()
    center_hz: Hertz | None = None
    radio: Name | None = None
    phase_errors_rad: tuple[float, ...] = ()
    made_from: str = ""

    @property
    def antennas(self) -> int:
        return len(self.gains_db)

    @property
    def gains(self) -> npt.NDArray[np.complex128]:
        """Shape [A, max(F, 1)]."""
        count = max(len(self.frequencies_hz), 1)
        gains_db, phases_rad = (np.reshape(one, (self.antennas, count)) for one in (self.gains_db, self.phases_rad))
        return np.asarray(10.0 ** (gains_db / 20) * np.exp(1j * phases_rad))

    def holds_for(self, radio: str, center_hz: float) -> bool:
        """Whether it says anything of that radio at that tuning."""
        tuned = self.center_hz is None or abs(self.center_hz - center_hz) <= _TUNING_HZ
        return tuned and self.radio in (None, radio)

    def factors(self, frequencies_hz: npt.NDArray[np.float64]) -> npt.NDArray[np.complex64] | None:
        """What undoes the differences at frequencies_hz [S] in the air: [A, S], or [A, 1] where they are flat.

        None where a frequency lies further from those measured than these from each other.
        """
        gains = self.gains
        if len(self.frequencies_hz) > 1:
            known = np.array(self.frequencies_hz)
            reach_hz = float(np.diff(known).max())
            if frequencies_hz.min() < known[0] - reach_hz or frequencies_hz.max() > known[-1] + reach_hz:
                return None
            sizes, angles = np.log(np.abs(gains)), np.unwrap(np.angle(gains), axis=1)
            gains = np.array(
                [
                    np.exp(np.interp(frequencies_hz, known, size) + 1j * _along(frequencies_hz, known, angle))
                    for size, angle in zip(sizes, angles, strict=True)
                ]
            )
        return np.asarray(1.0 / gains, np.complex64)

    def problem(self) -> str | None:
        """What contradicts itself; None where nothing does."""
        count = len(self.frequencies_hz)
        if not 1 <= self.antennas <= _MOST_ANTENNAS or count > _MOST_FREQUENCIES:
            return f"{self.antennas} antennas at {count} frequencies"
        if len(self.phases_rad) != self.antennas:
            return f"gains_db has {self.antennas} antennas, phases_rad {len(self.phases_rad)}"
        for name, rows in (("gains_db", self.gains_db), ("phases_rad", self.phases_rad)):
            for antenna, row in enumerate(rows):
                values = len(row) if isinstance(row, tuple) else 0
                if values != count:
                    return f"{name} of antenna {antenna} has {values or 'one'} values, frequencies_hz {count}"
        if any(late <= early for early, late in zip(self.frequencies_hz, self.frequencies_hz[1:], strict=False)):
            return "frequencies_hz does not ascend"
        return None


def _along(
    frequencies_hz: npt.NDArray[np.float64], known: npt.NDArray[np.float64], angles: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Angles between and, along the mean slope (a delay), beyond those known."""
    slope = np.polyfit(known - known[0], angles, 1)[0]
    beyond = frequencies_hz - np.clip(frequencies_hz, known[0], known[-1])
    return np.asarray(np.interp(frequencies_hz, known, angles) + slope * beyond)


def read_calibration(path: Path) -> AntennaCalibration:
    """The calibration in the file at `path`; `InputRefused` says in one line what is wrong with it."""
    where, mend = str(path), "twinbeam calibrate-antennas CAPTURE writes one"
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise InputRefused(f"cannot be read: {error.strerror}", where=where, mend=mend) from None
    if len(content) > _MAX_BYTES:
        raise InputRefused("is too large for a calibration", where=where, mend=mend)
    try:
        found = msgspec.json.decode(content, type=AntennaCalibration)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputRefused(f"is no calibration of antennas: {error}", where=where, mend=mend) from None
    problem = found.problem()
    if problem is not None:
        raise InputRefused(problem, where=where, mend="as many values as antennas and frequencies, in order")
    return found


def write_calibration(path: Path, calibration: AntennaCalibration, *, force: bool = False) -> None:
    """Write `calibration` to `path`; `InputRefused` where that cannot be, or a file is there and not to be replaced."""
    text = msgspec.json.format(msgspec.json.encode(calibration), indent=1)
    try:
        with path.open("wb" if force else "xb") as file:
            file.write(text + b"\n")
    except FileExistsError:
        raise InputRefused("exists already", where=str(path), mend="--force replaces it") from None
    except OSError as error:
        raise InputRefused(f"cannot be written: {error.strerror}", where=str(path)) from None
