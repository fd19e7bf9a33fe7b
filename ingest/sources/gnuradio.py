"""Samples that a GNU Radio flowgraph streams through gr-zeromq's PUB or PUSH sink.

The sink sends bare items, behind a key frame if it has a key, behind a tag header if it passes tags. It numbers nothing
but the first item of a message that passes tags: without tags, what its high-water mark dropped cannot be seen.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ingest.clock import Clock
from ingest.messages import IqBlock, Message
from ingest.sources.base import SourceInfo
from ingest.sources.gnuradio_tags import Tag, TagError, TagHeader, parse_tag_header
from ingest.sources.iq_blocks import BlockBuilder
from ingest.sources.live import SubscribedSource
from ingest.sources.samples import FORMATS
from ingest.stream_uri import MAX_CENTER_HZ, MAX_RATE_HZ, GnuRadioStream, parse_gnuradio

_REORDER_S = 0.05
"""How far back an offset may lie and still be a message out of order; further back, the flowgraph was restarted."""

_LONGEST_GAP_S = 3600.0
"""A radio's clock that has gone on by more was set, its samples are not missing."""


@dataclass(frozen=True)
class _Instant:
    """The radio's clock at a sample: whole seconds and the rest of a second."""

    sample: int
    seconds: int
    fraction: float


class GnuRadioSource(SubscribedSource):
    """Yields `IqBlock`s of what a flowgraph sends.

    Tags are honoured: offsets that jump and `rx_time` that runs ahead of the samples are gaps of exactly that many
    samples; `rx_freq` and `rx_rate` hold from their sample on. What is refused is counted in `rejected`: `frames`,
    `key`, `tagged` (a header where tags=0), `header`, `tag` (a value no radio has), `truncated`, `duplicate`,
    `reordered`, `non_finite`, `clock_step`, `hung_up`.
    """

    def __init__(self, uri: str | GnuRadioStream, clock: Clock | None = None) -> None:
        stream = parse_gnuradio(uri) if isinstance(uri, str) else uri
        info = SourceInfo(
            format=f"gnuradio/{stream.format_name}{'+tags' if stream.tags else ', losses unseen'}",
            where=stream.endpoint.address,
            antennas=stream.antennas,
            rate_hz=stream.iq.rate_hz,
            center_hz=stream.iq.center_hz,
        )
        self._stream = stream
        self._key = stream.key.encode()
        self._format = FORMATS[stream.format_name]
        self._item_bytes = self._format.sample_bytes * stream.antennas
        self._builder = BlockBuilder("gnuradio", stream.antennas, stream.iq)
        self._carry = b""
        self._last: tuple[int, int] | None = None
        self._instant: _Instant | None = None
        super().__init__(info, stream.endpoint, [self._key], clock)

    def _taken(self, frames: list[memoryview], now_ns: int) -> Iterable[Message]:
        return self.take(frames, now_ns)

    def take(self, frames: list[memoryview], now_ns: int) -> Iterator[IqBlock]:
        """The blocks that the message `frames`, which came at `now_ns`, fills."""
        if len(frames) != (2 if self._key else 1):
            self.rejected["frames"] += 1
        elif self._key and bytes(frames[0][: len(self._key) + 1]) != self._key:
            self.rejected["key"] += 1  # a subscription is a prefix: this is another, longer key
        elif self._stream.tags:
            yield from self._take_tagged(frames[-1], now_ns)
        else:
            yield from self._take_bare(frames[-1], now_ns)

    def _take_bare(self, data: memoryview, now_ns: int) -> Iterator[IqBlock]:
        """Items without a header; an item may begin in one message and end in the next."""
        if _is_tagged(data):
            self.rejected["tagged"] += 1
            return
        joined = memoryview(self._carry + bytes(data)) if self._carry else data
        whole = len(joined) - len(joined) % self._item_bytes
        self._carry = bytes(joined[whole:])
        yield from self._add(self._samples(joined[:whole]), now_ns)

    def _take_tagged(self, data: memoryview, now_ns: int) -> Iterator[IqBlock]:
        try:
            header = parse_tag_header(data)
        except TagError:
            self.rejected["header"] += 1
            return
        payload = data[header.payload :]
        if len(payload) % self._item_bytes or any(tag.index * self._item_bytes > len(payload) for tag in header.tags):
            self.rejected["truncated"] += 1
            return
        items = len(payload) // self._item_bytes
        if not items or (yield from self._is_out_of_order(header, items)):
            return
        samples, done = self._samples(payload), 0
        for tag in sorted(header.tags, key=lambda tag: (tag.index, tag.key != "rx_rate")):
            yield from self._add(samples[:, done : tag.index], now_ns)
            done = tag.index
            yield from self._obey(tag)
        yield from self._add(samples[:, done:], now_ns)

    def _is_out_of_order(self, header: TagHeader, items: int) -> Generator[IqBlock, None, bool]:
        """Returns whether the message is a leftover; brings the builder to where it begins, over a gap or a restart."""
        before, self._last = self._last, (header.offset, items)
        if before is None:
            self._builder.next_sample = header.offset
            return False
        expected = before[0] + before[1]
        behind = expected - header.offset
        if 0 < behind <= max(_REORDER_S * self._builder.rate_hz, before[1]):
            self._last = before
            self.rejected["duplicate" if header.offset == before[0] else "reordered"] += 1
            return True
        if behind > 0:
            self._instant = None
            yield from self._builder.restart(header.offset)
        elif behind < 0:
            yield from self._skip(-behind)
        return False

    def _skip(self, samples: int) -> Iterator[IqBlock]:
        self.lost_samples += samples
        yield from self._builder.skip(samples)

    def _obey(self, tag: Tag) -> Iterator[IqBlock]:
        """What a tag says of the samples from its own on."""
        builder = self._builder
        if tag.key == "rx_freq" and (center_hz := _within(tag.value, 0.0, MAX_CENTER_HZ)) is not None:
            if center_hz != builder.center_hz:
                yield from builder.retune(center_hz=center_hz)
        elif tag.key == "rx_rate" and (rate_hz := _within(tag.value, 1.0, MAX_RATE_HZ)) is not None:
            if rate_hz != builder.rate_hz:
                self._instant = None
                yield from builder.retune(rate_hz=rate_hz)
        elif tag.key == "rx_time" and (instant := _instant(tag.value, builder.next_sample)) is not None:
            yield from self._set_clock(instant)
        elif tag.key in ("rx_freq", "rx_rate", "rx_time"):
            self.rejected["tag"] += 1

    def _set_clock(self, now: _Instant) -> Iterator[IqBlock]:
        """The radio's clock against its samples: where it has run ahead, the radio has lost some."""
        before, self._instant = self._instant, now
        if before is None:
            return
        rate_hz = self._builder.rate_hz
        ahead = round((now.seconds - before.seconds) * rate_hz + (now.fraction - before.fraction) * rate_hz)
        ahead -= now.sample - before.sample
        if not 0 <= ahead <= _LONGEST_GAP_S * rate_hz:
            self.rejected["clock_step"] += 1
            yield from self._builder.restart(now.sample)
        elif ahead > 0:
            self._instant = _Instant(now.sample + ahead, now.seconds, now.fraction)
            yield from self._skip(ahead)

    def _samples(self, payload: memoryview) -> npt.NDArray[np.complex64]:
        """Items as [A, n]."""
        components = np.frombuffer(payload, self._format.component).reshape(-1, self._stream.antennas, 2)
        if self._format.component == "<f4":
            return components.view("<c8")[..., 0].T
        return self._format.to_complex64(components).T

    def _add(self, samples: npt.NDArray[np.complex64], now_ns: int) -> Iterator[IqBlock]:
        if np.isfinite(samples.T.view(np.float32)).all():
            yield from self._builder.add(samples, now_ns)
        else:
            self.rejected["non_finite"] += 1
            yield from self._builder.skip(samples.shape[1])

    def _idle(self) -> Iterable[Message]:
        """Nothing more comes for now: what is there goes on. With a lost connection ends a life of the sender."""
        yield from self._builder.flush()
        if self._watched.losses():
            self._last = self._instant = None
            self._carry = b""
            yield from self._builder.restart()
        yield from super()._idle()


def _is_tagged(data: memoryview) -> bool:
    """Whether a tag header lies in front, against chances of 1 in 2^60 that samples look like one."""
    try:
        parse_tag_header(data)
    except TagError:
        return False
    return True


def _within(value: Any, low: float, high: float) -> float | None:
    """`value` if it is a number from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        return None
    return float(value)


def _instant(value: Any, sample: int) -> _Instant | None:
    """The time that gr-uhd writes: a tuple of u64 seconds and a double below 1."""
    if not isinstance(value, tuple) or len(value) < 2:
        return None
    seconds, fraction = value[0], _within(value[1], 0.0, 1.0)
    if isinstance(seconds, bool) or not isinstance(seconds, int) or not 0 <= seconds < 1 << 62 or fraction is None:
        return None
    return _Instant(sample, seconds, fraction)
