"""IQ and channels as arrays in `.npz`, `.h5` or `.mat`, under the names that `ingest/sources/array_file.py` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ingest.errors import InputRefused, UsageRefused
from ingest.messages import ChannelFrame, IqBlock, Message
from ingest.sinks.array_writer import ArrayWriter, array_writer
from ingest.sinks.base import Asked, Sink
from ingest.sinks.samples_out import Encoder

_AT_ONCE = 256
_NO_VECTOR = (np.nan, np.nan, np.nan)


class IqArraySink(Sink):
    """`iq` [A, T] complex64, `rate_hz`, `center_hz`, `gaps` [G, 2]."""

    def __init__(self, path: Path, asked: Asked) -> None:
        super().__init__(path)
        if asked.format not in (None, "cf32"):
            raise UsageRefused(f"holds complex64, not {asked.format}", where=str(path), mend="convert to .sigmf-meta")
        self._asked = asked
        self._encoder = Encoder("cf32", asked.scale, asked.source)
        self._out: ArrayWriter = array_writer(path, "iq", growing_axis=1, force=asked.force)

    def write(self, message: Message) -> None:
        if not isinstance(message, IqBlock):
            self.left_out[message.TOPIC] += 1
            return
        for piece in self._encoder.encode(message):
            self._out.append(piece.view(np.complex64).reshape(piece.shape[0], -1))

    def finish(self) -> None:
        first = self._encoder.first
        if first is None:
            raise InputRefused("has no samples to write", where=self._asked.source)
        others: dict[str, npt.NDArray[Any]] = {
            "rate_hz": np.array(first.rate_hz, np.float64),
            "center_hz": np.array(self._encoder.only_center_hz(), np.float64),
        }
        if gaps := self._encoder.gaps():
            others["gaps"] = np.array(gaps, np.int64)
        self._out.finish(others)
        self.report = self._encoder.counts()

    def give_up(self) -> None:
        self._out.give_up()


class ChannelArraySink(Sink):
    """`cfr` [n, A, S] complex64 and what stands beside it, of frames with the same antennas and tones.

    Frames over several RIS patterns or through beams are refused, for these arrays have no place for what they say.
    """

    def __init__(self, path: Path, asked: Asked) -> None:
        super().__init__(path)
        self._source = asked.source
        self._first: ChannelFrame | None = None
        self._waiting: list[npt.NDArray[np.complexfloating]] = []
        self._columns: dict[str, list[Any]] = {}
        self._out: ArrayWriter = array_writer(path, "cfr", growing_axis=0, force=asked.force)

    def write(self, message: Message) -> None:
        if not isinstance(message, ChannelFrame):
            self.left_out[message.TOPIC] += 1
            return
        first = self._first = self._first or message
        if (
            message.cfr.shape[0] != 1
            or message.domain != "effective"
            or message.ris_patterns.size
            or message.beams.size
        ):
            raise InputRefused(
                f"frame {message.seq} of '{message.user}' is no plain channel to the antennas",
                where=self._source,
                mend="convert it to a journal (.mcap), which keeps everything",
            )
        if message.cfr.shape != first.cfr.shape or not np.array_equal(message.tones_hz, first.tones_hz):
            raise InputRefused(
                f"frame {message.seq} of '{message.user}' has other antennas or tones than the first",
                where=self._source,
                mend="convert it to a journal (.mcap)",
            )
        self._note(message)
        self._waiting.append(message.cfr[0])
        if len(self._waiting) >= _AT_ONCE:
            self._flush()

    def _note(self, frame: ChannelFrame) -> None:
        nan = float("nan")
        values = {
            "user": frame.user,
            "t_ns": frame.t_ns,
            "block": frame.block,
            "noise_power": frame.noise_power,
            "snr_db": frame.snr_db,
            "carrier_hz": nan if frame.carrier_hz is None else frame.carrier_hz,
            "cfo_hz": nan if frame.cfo_hz is None else frame.cfo_hz,
            "position_m": frame.position_m or _NO_VECTOR,
            "velocity_m_s": frame.velocity_m_s or _NO_VECTOR,
        }
        for name, value in values.items():
            self._columns.setdefault(name, []).append(value)

    def _flush(self) -> None:
        if self._waiting:
            self._out.append(np.stack(self._waiting).astype(np.complex64, copy=False))
        self._waiting.clear()

    def finish(self) -> None:
        if self._first is None:
            raise InputRefused("has no channel to write", where=self._source)
        self._flush()
        others = {name: np.array(values) for name, values in self._columns.items()}
        told = {name: value for name, value in others.items() if value.dtype.kind != "f" or not np.isnan(value).all()}
        self._out.finish(told | {"tones_hz": np.asarray(self._first.tones_hz, np.float64)})
        users = sorted(set(self._columns["user"]))
        self.report = {
            "frames": len(self._columns["t_ns"]),
            "users": len(users),
            "antennas": self._first.cfr.shape[1],
            "tones": self._first.cfr.shape[2],
        }

    def give_up(self) -> None:
        self._out.give_up()
