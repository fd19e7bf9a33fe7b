"""IQ and channels in `.npz`, `.h5` and `.mat` files, under the names that docs/sources.md lists.

IQ: `iq` [A, T] or [T], complex, or real with a last axis of two; `rate_hz`, `center_hz`; optional `gaps` [G, 2]
(sample, missing samples before it). int16 counts 32768 to full scale, int8 128.
Channels: `cfr` [n, A, S] or [n, K, A, S] for K users at once; `tones_hz` [S]. Optional, per frame [n] or [n, K], or one
for all: `noise_power`, `carrier_hz`, `time_s` or `t_ns`, `block`, `user` (names), `position_m` and `velocity_m_s`
[..., 3], NaN where not known. Without `noise_power` the noise is what is not smooth over frequency.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ingest.errors import UsageRefused
from ingest.messages import ChannelFrame, Vector, no_array
from ingest.sources.arrays import Array, Arrays, open_arrays
from ingest.sources.base import Source, SourceInfo
from ingest.sources.iq_file import IqFileSource, Segment, check_rate_and_center, iq_info, refuse_contradiction
from ingest.sources.samples import SlicedArray
from ingest.sources.wifi import noise_from_bends

_MAX_GAPS = 1_000_000
_MAX_LOST = 1 << 60
_MAX_T_NS = (1 << 63) - 1
_FULL_SCALE = {"int16": 32768.0, "int8": 128.0}
_NAME = re.compile(r"[^A-Za-z0-9_.:+-]")


def open_array_file(path: Path, *, rate_hz: float | None = None, center_hz: float | None = None) -> Source:
    """The IQ or the channels in an array file. Raises `InputRefused`, or `UsageRefused` for contradictions."""
    arrays = open_arrays(path)
    try:
        kinds = [name for name in ("iq", "cfr") if arrays.shape(name) is not None]
        if len(kinds) != 1:
            found = "neither 'iq' nor 'cfr'" if not kinds else "both 'iq' and 'cfr'"
            raise arrays.refused(f"holds {found}", "docs/sources.md names the arrays")
        if kinds == ["iq"]:
            return _open_iq(arrays, rate_hz, center_hz)
        if rate_hz is not None or center_hz is not None:
            raise UsageRefused("holds channels, which have no --rate-hz or --center-hz", where=str(path))
        return ChannelArraySource(arrays)
    except Exception:
        arrays.close()
        raise


def _open_iq(arrays: Arrays, told_rate_hz: float | None, told_center_hz: float | None) -> Source:
    where = str(arrays.path)
    probe = arrays.read("iq", _iq_axis(arrays)[0], 0, 1)
    axis, pairs = _iq_axis(arrays, probe)
    shape = arrays.shape("iq") or ()
    channels = 1 if axis == 0 else shape[0]
    if not (1 <= channels <= 4096 and shape[axis] >= 1):
        raise arrays.refused(f"'iq' of shape {shape}", "iq [A, T]: antennas, samples")
    scale = _FULL_SCALE.get(probe.dtype.name)

    def read(start: int, stop: int) -> Array:
        values = _complex(arrays, "iq", arrays.read("iq", axis, start, stop), pairs)
        return (values if scale is None else values * np.float32(1 / scale)).reshape(channels, stop - start)

    rate_hz = _agreed(arrays, "rate_hz", "--rate-hz", told_rate_hz)
    center_hz = _agreed(arrays, "center_hz", "--center-hz", told_center_hz)
    check_rate_and_center(rate_hz, center_hz, where=where)
    reader = SlicedArray((channels, shape[axis]), read)
    segments = _segments(arrays, center_hz, shape[axis])
    return IqFileSource(reader, segments, iq_info(f"array/{probe.dtype.name}", where, reader, rate_hz, segments))


def _iq_axis(arrays: Arrays, probe: Array | None = None) -> tuple[int, bool]:
    """The axis of time, and whether a last axis of two holds real and imaginary parts."""
    shape = arrays.shape("iq") or ()
    pairs = len(shape) == 3 or (len(shape) == 2 and shape[1] == 2 and probe is not None and _is_real(probe))
    dims = len(shape) - pairs
    if dims not in (1, 2) or (pairs and shape[-1] != 2):
        raise arrays.refused(f"'iq' of shape {shape}", "iq [A, T]: antennas, samples")
    if probe is not None and _is_real(probe) and not pairs:
        raise arrays.refused("'iq' is real", "complex samples, or a last axis of two")
    return dims - 1, pairs


def _is_real(values: Array) -> bool:
    return values.dtype.kind in "fiu"


def _complex(arrays: Arrays, name: str, values: Array, pairs: bool) -> npt.NDArray[np.complexfloating]:
    """Complex numbers of a complex array, of MATLAB's and h5py's compounds of two, or of pairs."""
    if values.dtype.kind == "c":
        return values
    names = values.dtype.names or ()
    if names in (("real", "imag"), ("r", "i")):
        return np.asarray(values[names[0]] + 1j * values[names[1]])
    if pairs and _is_real(values):
        return np.asarray(values[..., 0] + 1j * values[..., 1].astype(np.float64))
    raise arrays.refused(f"'{name}' is of type {values.dtype.name}", "complex numbers")


def _segments(arrays: Arrays, center_hz: float, samples: int) -> tuple[Segment, ...]:
    """The runs between the gaps [G, 2]."""
    segments = [Segment(0, center_hz)]
    shape = arrays.shape("gaps")
    if shape is None or 0 in shape:
        return tuple(segments)
    if len(shape) != 2 or shape[1] != 2 or shape[0] > _MAX_GAPS:
        raise arrays.refused(f"'gaps' of shape {shape}", "gaps [G, 2]: sample, missing samples before it")
    told = arrays.read("gaps")
    if not _is_real(told) or not np.isfinite(told).all():
        raise arrays.refused(f"'gaps' of type {told.dtype.name}", "finite whole numbers")
    with np.errstate(invalid="ignore"):  # beyond 64 bits; what comes of it is no gap
        pairs = told.astype(np.int64).tolist()
    for at, missing in pairs:
        lost = segments[-1].lost_before + missing
        if not (segments[-1].first_sample <= at < samples and missing >= 1 and lost <= _MAX_LOST):
            raise arrays.refused(f"a gap of {missing} at sample {at}")
        if at == segments[-1].first_sample:
            segments.pop()
        segments.append(Segment(at, center_hz, lost))
    return tuple(segments)


def _scalar(arrays: Arrays, name: str) -> float | None:
    if arrays.shape(name) is None:
        return None
    values = np.asarray(arrays.read(name))
    if values.size != 1 or not _is_real(values):
        raise arrays.refused(f"'{name}' is no number")
    return float(values.reshape(-1)[0])


def _agreed(arrays: Arrays, name: str, option: str, told: float | None) -> float:
    """What the file says; what the caller tells where it says nothing."""
    stands = _scalar(arrays, name)
    if stands is not None:
        refuse_contradiction(option, told, stands, where=str(arrays.path))
    value = told if stands is None else stands
    if value is None:
        raise UsageRefused(f"has no '{name}'", where=str(arrays.path), mend=f"add {option} 46.08e6, say")
    return value


class ChannelArraySource(Source):
    """One `ChannelFrame` per row of `cfr` and user; rows with NaN or without power are counted and passed over."""

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays
        shape = arrays.shape("cfr") or ()
        if len(shape) not in (3, 4) or 0 in shape:
            raise arrays.refused(f"'cfr' of shape {shape}", "cfr [n, A, S] or [n, K, A, S]")
        self._lead = shape[: len(shape) - 2]
        antennas, tones = shape[-2:]
        tones_hz = self._numbers("tones_hz", (tones,))
        if tones_hz is None or not np.isfinite(tones_hz).all():
            raise arrays.refused("has no finite 'tones_hz' [S]", "offsets of the subcarriers from the carrier")
        self._tones_hz = tones_hz.astype(np.float64)
        self._noise = self._per_frame("noise_power")
        self._carrier_hz = self._per_frame("carrier_hz")
        self._time_s = self._per_frame("time_s")
        self._t_ns = self._per_frame("t_ns")
        self._block = self._per_frame("block")
        self._position = self._per_frame("position_m", 3)
        self._velocity = self._per_frame("velocity_m_s", 3)
        self._user = self._names()
        super().__init__(
            SourceInfo(format="array/cfr", where=str(arrays.path), antennas=antennas, samples=int(np.prod(self._lead)))
        )

    def __iter__(self) -> Iterator[ChannelFrame]:
        seq = 0
        for row in range(self._lead[0]):
            values = _complex(self._arrays, "cfr", self._arrays.read("cfr", 0, row, row + 1), False)[0]
            with np.errstate(over="ignore", invalid="ignore"):
                users = values.astype(np.complex64).reshape(-1, *values.shape[-2:])
            for user, cfr in enumerate(users):
                frame = self._frame(row * users.shape[0] + user, row, user, seq, cfr)
                if frame is not None:
                    yield frame
                    seq += 1

    def _frame(self, at: int, row: int, user: int, seq: int, cfr: npt.NDArray[np.complex64]) -> ChannelFrame | None:
        """Frame number `at` of the file; None, and counted, where it is not fit to be passed on."""
        if not np.isfinite(cfr).all():
            self.rejected["non_finite"] += 1
            return None
        power = float(np.mean(np.abs(cfr.astype(np.complex128)) ** 2))
        noise = noise_from_bends(cfr, 1e-9 * power) if self._noise is None else float(self._noise[at])
        if not (0 < noise < np.inf and power > 0):
            self.rejected["no_power" if power == 0 else "non_finite"] += 1
            return None
        carrier_hz = None if self._carrier_hz is None else float(self._carrier_hz[at])
        return ChannelFrame(
            source="array",
            epoch=0,
            seq=seq,
            t_ns=self._stamp(at, row),
            user=self._user[at] if self._user else f"u{user}",
            block=row if self._block is None else round(min(max(float(self._block[at]), 0.0), 2.0**62)),
            domain="effective",
            noise_power=noise,
            snr_db=float(10 * np.log10(power / noise)),
            carrier_hz=carrier_hz if carrier_hz is not None and 0 < carrier_hz < np.inf else None,
            position_m=_vector(self._position, at),
            velocity_m_s=_vector(self._velocity, at),
            cfr=cfr[None],
            tones_hz=self._tones_hz,
            ris_patterns=no_array(1, 0),
            beams=no_array(0, cfr.shape[0]),
            cir=no_array(cfr.shape[0], 0),
        )

    def _stamp(self, at: int, row: int) -> int:
        """Nanoseconds of frame `at`; a millisecond a row where the file does not tell."""
        if self._t_ns is not None:
            value = int(self._t_ns[at]) if np.isfinite(self._t_ns[at]) else 0
        elif self._time_s is not None:
            value = round(float(self._time_s[at]) * 1e9) if np.isfinite(self._time_s[at]) else 0
        else:
            value = row * 1_000_000
        return min(max(value, 0), _MAX_T_NS)

    def _numbers(self, name: str, *shapes: tuple[int, ...]) -> npt.NDArray[Any] | None:
        """An array of numbers that has one of `shapes` but for axes of one; None where there is none."""
        if self._arrays.shape(name) is None:
            return None
        values = np.asarray(self._arrays.read(name))
        for shape in shapes:
            if values.squeeze().shape == tuple(size for size in shape if size != 1):
                if not _is_real(values):
                    break
                exact = values.dtype.kind in "iu" and values.dtype.itemsize == 8
                return values.reshape(shape) if exact else values.reshape(shape).astype(np.float64)
        raise self._arrays.refused(
            f"'{name}' of type {values.dtype.name} and shape {values.shape}", "see docs/sources.md"
        )

    def _per_frame(self, name: str, width: int = 1) -> npt.NDArray[Any] | None:
        """Numbers [frames] or, with a width, [frames, width]: told one by one, per row, or once for all."""
        count = int(np.prod(self._lead))
        values = self._numbers(name, (*self._lead, width), (self._lead[0], width), (1, width))
        if values is None:
            return None
        flat = values.reshape(-1, width)
        each = np.repeat(flat, count // flat.shape[0], axis=0) if flat.shape[0] < count else flat
        return each if width > 1 else each[:, 0]

    def _names(self) -> list[str]:
        """Users' names per frame; empty where the file names none. What a name may not have becomes `_`."""
        shape = self._arrays.shape("user")
        if shape is None:
            return []
        values = np.asarray(self._arrays.read("user")).reshape(-1)
        if values.dtype.kind not in "USO" or values.size not in (1, self._lead[-1], int(np.prod(self._lead))):
            raise self._arrays.refused(f"'user' of type {values.dtype.name} and shape {shape}", "see docs/sources.md")
        names = []
        for value in values.tolist():
            text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
            names.append(_NAME.sub("_", text.strip())[:64] or "u0")
        return names * (int(np.prod(self._lead)) // len(names))

    def close(self) -> None:
        self._arrays.close()


def _vector(values: npt.NDArray[Any] | None, at: int) -> Vector | None:
    if values is None or not np.isfinite(values[at]).all():
        return None
    x, y, z = (float(value) for value in values[at])
    return x, y, z
