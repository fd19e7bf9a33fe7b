"""Replays: recorded captures, logs and journals through the same receiver and the same `step` as live runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from controller.assembly import build_pipeline, pipeline_from_journal, warm_up
from controller.cells import cell_summary, dmrs_summaries, reference_summaries
from controller.coherence import CoherenceBlocks
from controller.config import Config
from controller.lateness import Lateness
from controller.pipeline import Pipeline
from controller.report import TimeTally
from controller.session import Session
from ingest.clock import MonotonicClock
from ingest.errors import InputRefused
from ingest.journal import pack
from ingest.messages import BlockDecision, ChannelFrame, IqBlock, Message, StepBudget
from ingest.nr.receiver import NrReceiver
from ingest.nr.warm_up import warm_up as warm_up_receiver
from ingest.pacing import at_their_time
from ingest.sources import Source
from ingest.sources.iq_file import IqFileSource
from ingest.sources.journal import JournalSource
from ingest.sources.zmq_stream import ZmqSource

Progress = Callable[[float, float | None], None]
"""Told how much is done, and of how much: seconds of IQ, frames, bytes of a journal; None where that is not known."""


@dataclass
class Replay:
    """One replay. speed: recorded seconds per second, None for as fast as possible.

    find_dmrs: search IQ for PUSCH, PDSCH and PDCCH DMRS of which nothing is told. `stop` ends it early, from another
    thread or a signal's handler; what was played is then reported.
    """

    source: Source
    config: Config
    speed: float | None = None
    progress: Progress = lambda done, total: None
    find_dmrs: bool = False
    _dmrs: list[dict[str, Any]] = field(default_factory=list, init=False)
    _frames: int = field(default=0, init=False)
    _samples: int = field(default=0, init=False)
    _differing: int = field(default=0, init=False)
    _users: set[str] = field(default_factory=set, init=False)
    _antennas: int = field(default=0, init=False)
    _times_ns: tuple[int, int] | None = field(default=None, init=False)
    _step_time: TimeTally = field(default_factory=TimeTally, init=False)
    _closed: threading.Event = field(default_factory=threading.Event, init=False)

    def __post_init__(self) -> None:
        self._blocks = CoherenceBlocks(self.config.block.period_s)
        self._receiver = NrReceiver(self.config.receiver.settings(), calibrations=self.config.receiver.calibrations())

        self.lateness = None if self.speed is None else Lateness(self.speed)

    def stop(self) -> None:
        """Play nothing more."""
        self._closed.set()
        self.source.close()

    def run(self) -> dict[str, Any]:
        """Play the source to its end; the fields of CLI-JSON."""
        if isinstance(self.source, ZmqSource):
            raise InputRefused("a stream cannot be replayed", where=self.source.info.where, mend="twinbeam run CONFIG")
        source = self.source
        if self.speed is not None and isinstance(source, IqFileSource):
            warm_up_receiver(self.config.receiver.settings())
        begun = perf_counter()
        session = self._replay_journal(source) if isinstance(source, JournalSource) else self._replay_frames()
        return self._summary(session, perf_counter() - begun)

    def _replay_journal(self, source: JournalSource) -> Session:
        """Give `step` the inputs and budgets that it had, so that it decides the same."""
        session = _session(pipeline_from_journal(source.reader.metadata, source.info.where))
        decision: BlockDecision | None = None
        for message in self._paced(source):
            if isinstance(message, StepBudget):
                decision = self._step(session, message)
            elif isinstance(message, BlockDecision):
                self._differing += decision is None or pack(decision) != pack(message)
            else:
                self._saw(message)
                session.put(message)
        if not session.report.decisions and not self._closed.is_set():
            raise InputRefused("holds no decision", where=source.info.where, mend="replay a journal of a whole run")
        return session

    def _replay_frames(self) -> Session:
        """Decide after every coherence block of a recording, with as much time as it takes."""
        session = _session(build_pipeline(self.config)[0])
        block: int | None = None
        last: Message | None = None
        for message in self._channel_messages():
            self._saw(message)
            if isinstance(message, ChannelFrame):
                if block is not None and message.block != block and last is not None:
                    self._step(session, self._unhurried_budget(session, last))
                block = message.block
            session.put(message)
            last = message
        if last is not None:
            self._step(session, self._unhurried_budget(session, last))
        return session

    def _channel_messages(self) -> Iterator[Message]:
        for message in self._paced(self.source):
            if isinstance(message, IqBlock):
                self._samples += message.samples.shape[1]
                self._tell_progress(message)
                if self.find_dmrs:
                    self._dmrs += dmrs_summaries(message)
                yield from map(self._blocks.numbered, self._receiver.process(message))
            else:
                yield message

    def _paced(self, messages: Iterable[Message]) -> Iterator[Message]:
        if self.lateness is not None:
            messages = at_their_time(
                messages,
                MonotonicClock(),
                self._closed,
                speed=self.lateness.speed,
                restamp=False,
                told=self.lateness.add,
            )
        for message in messages:
            if self._closed.is_set():
                return
            yield message

    def _tell_progress(self, message: Message) -> None:
        """How much was played: samples of IQ as seconds, bytes of a journal, else frames of known number."""
        info = self.source.info
        if isinstance(message, IqBlock):
            followed = isinstance(self.source, IqFileSource) and self.source.follow
            total = None if followed or info.samples is None else info.samples / message.rate_hz
            self.progress(self._samples / message.rate_hz, total)
        elif isinstance(self.source, JournalSource):
            self.progress(*self.source.reader.progress())
        elif isinstance(message, ChannelFrame):
            self.progress(message.seq + 1, info.samples)

    def _unhurried_budget(self, session: Session, last: Message) -> StepBudget:
        """The budget of a recording: every rung, and decisions on air as soon as they are made."""
        return StepBudget(
            source="replay",
            epoch=0,
            seq=session.report.decisions,
            t_ns=last.t_ns,
            block=session.report.decisions,
            rung="robust",
            iterations=self.config.design.ris_sweeps,
            lead_s=0.0,
        )

    def _step(self, session: Session, budget: StepBudget) -> BlockDecision:
        begun = perf_counter()
        decision = session.step(budget)
        self._step_time.add(perf_counter() - begun)
        return decision

    def _saw(self, message: Message) -> None:
        first, _ = self._times_ns or (message.t_ns, 0)
        self._times_ns = (first, message.t_ns)
        if not self._samples:
            self._tell_progress(message)
        if isinstance(message, ChannelFrame):
            self._frames += 1
            self._users.add(message.user)
            self._antennas = max(self._antennas, message.antennas)

    def _summary(self, session: Session, elapsed_s: float) -> dict[str, Any]:
        info = self.source.info
        found: dict[str, Any] = {
            "format": info.format,
            "frames": self._frames,
            **session.report.summary(session.state),
            "gaps": self.source.gaps + self._receiver.gaps,
            "rejected": dict(self.source.rejected),
            "antennas": info.antennas or self._antennas,
            "users": sorted(self._users),
            "latency_ms": self._step_time.summary_ms(50, 99),
        }
        if isinstance(self.source, JournalSource):
            found["differs_from_record"] = self._differing
        if self.lateness is not None:
            found |= self.lateness.summary()
        if self._closed.is_set():
            found["stopped"] = True
        recorded_s = self._recorded_s()
        if recorded_s > 0:
            found["real_time_factor"] = round(recorded_s / elapsed_s, 3)
        if isinstance(self.source, IqFileSource):
            found["samples"] = self._samples
            found["cells"] = [cell_summary(cell) for cell in self._receiver.cells]
            if self._receiver.references is not None:
                found["references"] = reference_summaries(self._receiver.references)
            if (antennas := self._receiver.antennas.summary()) is not None:
                found["antenna_phases"] = antennas
            if self.find_dmrs:
                found["dmrs"] = self._dmrs
        return found

    def _recorded_s(self) -> float:
        rate_hz = self.source.info.rate_hz
        if self._samples and rate_hz:
            return self._samples / rate_hz
        return (self._times_ns[1] - self._times_ns[0]) * 1e-9 if self._times_ns else 0.0


def _session(pipeline: Pipeline) -> Session:
    """A session without a journal, its kernels compiled: latencies are those of the steps."""
    warm_up(pipeline)
    return Session(pipeline)
