"""A live source and the path of its IQ in a process of their own.

Beside the loop, in one process, Python lets one of the two work at a time, and each of the many small steps of either
waits for the other: with four antennas a fifth of the signal was shed on two cores that were a third idle. What comes
over is what a decision is made of: channel frames, feedback and outcomes, packed as they stand. As both sides are ours,
that is a seventh of the work of the wire, whose every array is held against what it should be.
"""

from __future__ import annotations

import gc
import multiprocessing
import signal
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import msgspec

from controller.config import Config
from controller.interrupts import ignoring_interrupts
from controller.iq_estimator import IqEstimator
from controller.iq_path import SWITCH_S, IqPath
from controller.iq_told import IqTold
from ingest import errors
from ingest.errors import TwinbeamError
from ingest.messages import IqBlock, Message
from ingest.nr.warm_up import warm_up
from ingest.packing import packed, unpacked
from ingest.sources import LiveSource, Source, SourceInfo, open_source
from ingest.topics import TOPICS

_BEGIN, _CLOSE = b"begin", b"close"
"""What the process is told. Before it is to begin it reads nothing: what nobody takes over would be shed."""

_TELL_S = 0.1
_JOIN_S = 5.0


class _Failure(msgspec.Struct, frozen=True):
    """An exception: one of `errors` by its name, or with "" another one, whose traceback `what` is then."""

    kind: str
    what: str
    where: str = ""
    mend: str = ""


class _News(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the process says: messages, each behind its topic; counts of its source, and what came of the IQ, as they
    stand; what it failed with; that it is ready, or that no more will come."""

    messages: list[tuple[str, Any]] = []
    rejected: dict[str, int] | None = None
    gaps: int = 0
    told: IqTold | None = None
    failure: _Failure | None = None
    ready: SourceInfo | None = None
    ended: bool = False


class _Heard(_News, frozen=True):
    """News whose messages are still packed."""

    messages: list[tuple[str, msgspec.Raw]] = []


_ENCODER = msgspec.msgpack.Encoder(enc_hook=packed)
_DECODER = msgspec.msgpack.Decoder(_Heard)
_MESSAGES = {name: msgspec.msgpack.Decoder(topic.message, dec_hook=unpacked) for name, topic in TOPICS.items()}


class LiveReceiver(Source):
    """Yields what the configured live source receives and what is estimated of its IQ, until `close` is called.

    told: what came of the IQ, a moment old until iteration has ended. Raises `UsageRefused` or `InputRefused` where the
    source cannot be opened, and while it is read what goes wrong there; `TwinbeamError` where the process has died.
    """

    def __init__(self, config: Config) -> None:
        self.told = IqTold()
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, config), name="receiver", daemon=True)
        with ignoring_interrupts():
            self._process.start()
        theirs.close()
        try:
            info = self._heard_from().ready
        except BaseException:
            self.end()
            raise
        assert info is not None
        super().__init__(info)

    def __iter__(self) -> Iterator[Message]:
        with suppress(OSError):  # closed, or dead: what is heard from it says which
            self._connection.send_bytes(_BEGIN)
        while not (news := self._heard_from()).ended:
            for topic, message in news.messages:
                yield _MESSAGES[topic].decode(message)

    def close(self) -> None:
        """Ask the process to end; iteration goes on with what it has to say until then."""
        with suppress(OSError):
            self._connection.send_bytes(_CLOSE)

    def end(self) -> None:
        """See the process to its end; what it has still to say is not heard."""
        self._connection.close()
        self._process.join(timeout=_JOIN_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _heard_from(self) -> _Heard:
        """The next news, whose counts are taken over and whose failure is raised."""
        try:
            news = _DECODER.decode(self._connection.recv_bytes())
        except (EOFError, OSError):
            self._process.join(timeout=_JOIN_S)
            raise TwinbeamError(
                "the process that receives has died",
                where=f"exit code {self._process.exitcode}",
                mend="start again; standard error holds its last words",
            ) from None
        if news.failure is not None:
            raise _exception_of(news.failure)
        if news.rejected is not None:
            self.rejected, self.gaps = Counter(news.rejected), news.gaps
        if news.told is not None:
            self.told = news.told
        return news


def _exception_of(failure: _Failure) -> Exception:
    if not failure.kind:
        return RuntimeError(failure.what)
    error: TwinbeamError = getattr(errors, failure.kind)(failure.what, where=failure.where, mend=failure.mend)
    return error


def _failure_of(error: Exception) -> _Failure:
    if isinstance(error, TwinbeamError):
        return _Failure(type(error).__name__, error.what, error.where, error.mend)
    return _Failure("", "".join(traceback.format_exception(error)))


def _work(connection: Connection, config: Config) -> None:
    """What the process does: receive until it is told to close, or the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.setswitchinterval(SWITCH_S)
    with suppress(OSError):  # the other side is gone: nobody is left to be told
        try:
            source = open_source(config.source.uri, rate_hz=config.source.rate_hz, center_hz=config.source.center_hz)
            assert isinstance(source, LiveSource)
            worker = _Worker(connection, source, IqEstimator(config, live=True))
            warm_up(config.receiver.settings())
            gc.collect()
            gc.freeze()  # what is there by now stays: looking through all of it would keep the stream waiting
            worker.run()
        except Exception as error:
            connection.send_bytes(_ENCODER.encode(_News(failure=_failure_of(error))))


class _Worker:
    """Reads `source`, has its IQ estimated, and says on `connection` what comes of it."""

    def __init__(self, connection: Connection, source: LiveSource, estimator: IqEstimator) -> None:
        self._connection, self._source = connection, source
        self._path = IqPath(estimator, self._pass_on, self._failed, sheds=not source.peer_waits)
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._failure: Exception | None = None

    def run(self) -> None:
        self._say(_News(ready=self._source.info))
        if self._connection.recv_bytes() != _BEGIN:
            self._source.close()
        for work in (self._await_close, self._tell):
            threading.Thread(target=work, daemon=True).start()
        for message in self._source:
            if isinstance(message, IqBlock):
                self._path.offer(message)
            else:
                self._pass_on([message])
        if self._closing.is_set() or self._failure is not None:
            self._path.close()
        else:
            self._path.end()
        self._closing.set()
        if self._failure is not None:
            raise self._failure
        # In one: counts that were taken before must not come after them.
        self._say(msgspec.structs.replace(self._counts(), ended=True))

    def _pass_on(self, messages: Sequence[Message]) -> None:
        self._say(_News([(message.TOPIC, message) for message in messages]))

    def _failed(self, error: Exception) -> None:
        self._failure = error
        self._source.close()

    def _await_close(self) -> None:
        with suppress(EOFError, OSError):
            self._connection.recv_bytes()
        self._closing.set()
        self._source.close()

    def _tell(self) -> None:
        with suppress(OSError):
            while not self._closing.wait(_TELL_S):
                self._say(self._counts())

    def _counts(self) -> _News:
        return _News(rejected=dict(self._source.rejected.copy()), gaps=self._source.gaps, told=self._path.told())

    def _say(self, news: _News) -> None:
        with self._lock:
            self._connection.send_bytes(_ENCODER.encode(news))
