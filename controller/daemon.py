"""The edge around the pipeline: an event loop that takes frames in, grants budgets, and sends decisions out.

Task boundaries: receive (a thread) | estimate, for IQ (another) | step | emit. The first part to end ends all of them,
in order, with everything closed; a part that fails makes `run` raise what it failed with.
"""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from controller.config import Config
from controller.emit import DecisionPublisher
from controller.gathering import Gathering
from controller.interrupts import ended_by_signals
from controller.iq_estimator import IqEstimator
from controller.iq_path import SWITCH_S, IqPath
from controller.iq_told import IqLog, IqTold
from controller.ladder import CostEstimate
from controller.live_receiver import LiveReceiver
from controller.live_twin import LiveTwin
from controller.log import logger
from controller.metrics import Metrics
from controller.on_air import OnAir
from controller.page.feed import PageFeed
from controller.pipeline import TWIN_STALE
from controller.session import Session
from ingest.clock import Clock
from ingest.messages import BlockDecision, ChannelFrame, IqBlock, Message, StepBudget
from ingest.pacing import at_their_time
from ingest.sources import LiveSource, Source

_QUEUE_MESSAGES = 4096
_MAX_TOLD = 100
_HOUSEKEEPING_S = 0.1


@dataclass
class Daemon:
    """A live run. watch: called regularly; raises when something that the run depends on has died."""

    config: Config
    session: Session
    source: Source
    clock: Clock
    metrics: Metrics
    publisher: DecisionPublisher | None = None
    page: PageFeed | None = None
    twin: LiveTwin | None = None
    blocks: int | None = None
    watch: Callable[[], None] = lambda: None
    dropped: Counter[str] = field(default_factory=Counter)
    epoch: int = field(default_factory=time.time_ns)
    _queue: queue.Queue[Message] = field(default_factory=lambda: queue.Queue(_QUEUE_MESSAGES), init=False)
    _costs: CostEstimate = field(default_factory=CostEstimate, init=False)
    _came_ns: dict[str, int] = field(default_factory=dict, init=False)
    _told: set[str] = field(default_factory=lambda: {TWIN_STALE}, init=False)  # of that `twin` has a line of its own
    _waking: bool = field(default=False, init=False)
    _failure: Exception | None = field(default=None, init=False)
    _block: int = field(default=-1, init=False)
    _gathering: Gathering = field(default_factory=Gathering, init=False)
    _decided_ns: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        source, live = self.source, isinstance(self.source, LiveSource)
        sheds = isinstance(source, LiveSource) and not source.peer_waits
        self._ended = threading.Event()
        self._iq = IqPath(IqEstimator(self.config, live=live), self._pass_on, self._failed, sheds=sheds)
        self._iq_log = IqLog()
        receiver, prior = self.config.receiver, self.session.pipeline.prior
        self._on_air: OnAir | None = None
        if receiver.ris_switch_s is not None and self.publisher is not None:
            names, elements = receiver.reference_names(), prior.rows - 1 if prior is not None else 0
            self._on_air = OnAir(names, elements, receiver.ris_switch_s, self.config.block.stale_after_s)

    async def run(self) -> None:
        """Work until `blocks` are decided, the source ends, a signal comes or something fails."""
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._stop = asyncio.Event()
        self._closed = threading.Event()
        switch_s = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_S)
        with ended_by_signals(self._loop, self._stop.set):
            try:
                await self._work()
            finally:
                sys.setswitchinterval(switch_s)
                self._count_up()

    async def _work(self) -> None:
        """All parts, until the first one ends."""
        receiver = threading.Thread(target=self._receive, name="receive", daemon=True)
        receiver.start()
        if self.twin is not None:
            self.twin.start(self._pass_on, self._failed)
        parts: list[Coroutine[Any, Any, None]] = [
            self._decide_blocks(),
            self._keep_house(),
            self._until_stopped(),
        ]
        tasks = [asyncio.create_task(part) for part in parts]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._stop.set()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._closed.set()
            self.source.close()
            self._iq.close()
            receiver.join(timeout=5.0)
            if self.twin is not None:
                self.twin.close()

    async def _until_stopped(self) -> None:
        await self._stop.wait()

    # ---- receive (its own thread) -------------------------------------------------------------------------------

    def _receive(self) -> None:
        """Read the source until it ends, recordings at the pace of their recording; IQ goes on to be estimated."""
        live = isinstance(self.source, LiveSource | LiveReceiver)
        try:
            for message in self.source if live else at_their_time(self.source, self.clock, self._closed):
                if isinstance(message, IqBlock):
                    self._iq.offer(message)
                else:
                    self._pass_on((message,))
            self._iq.end()
        except Exception as error:
            self._failed(error)
        finally:
            self._ended.set()
            self._wake()

    def _pass_on(self, messages: Iterable[Message]) -> None:
        """To the loop, from any thread."""
        for message in messages:
            try:
                self._queue.put_nowait(message)
            except queue.Full:
                self.dropped["loop_behind"] += 1
        self._wake()

    def _failed(self, error: Exception) -> None:
        """Kept for the loop to raise."""
        self._failure = error
        self._ended.set()
        self._wake()

    def _wake(self) -> None:
        """Tell the loop of news; once until it has heard, else its wake-up pipe fills and signals are lost."""
        if self._waking:
            return
        self._waking = True
        with suppress(RuntimeError):  # the loop has closed: nobody is left to be woken
            self._loop.call_soon_threadsafe(self._awake)

    def _awake(self) -> None:
        self._waking = False
        self._news.set()

    def _take_in(self) -> None:
        """Move what the receiver queued into the mailbox."""
        while True:
            try:
                received = self._queue.get_nowait()
            except queue.Empty:
                return
            if (message := self._joined(received)) is None:
                continue
            if self.page is not None and isinstance(message, ChannelFrame):
                self.page.saw(message)
            self.metrics.took_in(message.TOPIC)
            self._came_ns[message.TOPIC] = self.clock.now_ns()
            self.session.put(message)

    def _joined(self, message: Message) -> Message | None:
        """`message` counted in its block, and a frame with what it does not say itself; None for what is of no use."""
        on_air = self._on_air
        if on_air is not None and isinstance(message, ChannelFrame) and not on_air.is_user(message):
            return None
        self._gathering.take(message)  # also what is not used: its user was heard, nothing more is to be waited for
        return message if on_air is None else on_air.joined(message)

    # ---- step -------------------------------------------------------------------------------------------------

    async def _decide_blocks(self) -> None:
        while self.blocks is None or self.session.report.decisions < self.blocks:
            if not await self._block_is_due():
                if self._failure is not None:
                    raise self._failure
                return
            self._decide_block()
            await asyncio.sleep(0)  # however short the blocks are, others have their turn

    async def _block_is_due(self) -> bool:
        """Wait for the frames of a block: all users', or those that came in time. False when none can come any more."""
        while not self._stop.is_set():
            self._news.clear()
            self._take_in()
            if self._gathering.is_complete:
                return True
            if self._ended.is_set() and self._queue.empty():
                return bool(self._gathering.heard)
            wait_s = self._gathering.patience_s(self.clock.now_ns(), self._decided_ns, self.config.block)
            if wait_s is not None and wait_s <= 0:
                return True
            # Not asyncio.wait_for: up to Python 3.11 it may swallow a cancellation that meets the news.
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._news.wait()
        return False

    def _decide_block(self) -> None:
        """One step, its emission, and what is measured of both."""
        config, first_ns = self.config, self._gathering.first_ns
        begun_ns = self.clock.now_ns()
        reference_ns = begun_ns if first_ns is None else first_ns
        deadline_ns = reference_ns + round(config.block.deadline_s * 1e9)
        # The sender's own number, also where ours went on while it paused.
        self._block = self._block + 1 if self._gathering.block is None else self._gathering.block
        self._gathering.end()
        rung = self._costs.affordable((deadline_ns - begun_ns) * 1e-9, {"linear": True})
        decision = self.session.step(
            StepBudget(
                source="twinbeam",
                epoch=self.epoch,
                seq=self.session.report.decisions,
                t_ns=reference_ns,
                block=self._block,
                rung=rung,
                iterations=config.design.ris_sweeps,
                lead_s=config.block.lead_s,
            )
        )
        if self.publisher is not None:
            self.publisher.publish(decision)
        self._decided_ns = self.clock.now_ns()
        if decision.rung == rung:
            self._costs.observe(rung, (self._decided_ns - begun_ns) * 1e-9)
        if self._on_air is not None:
            self._on_air.emitted(decision, self._decided_ns, late=self._decided_ns > deadline_ns)
        latency_s = None if first_ns is None else (self._decided_ns - first_ns) * 1e-9
        self._account(decision, latency_s, missed=self._decided_ns > deadline_ns)

    def _account(self, decision: BlockDecision, latency_s: float | None, *, missed: bool) -> None:
        """latency_s: None for a block without frames, which has no first one to count from."""
        self.session.report.emitted(latency_s, missed=missed)
        self.metrics.decided(decision, latency_s, missed=missed)
        self.metrics.stages(self.session.stages.last_s)
        if self.page is not None:
            self.page.decided(decision, latency_s, self.session.state, missed=missed)
        for note in set(decision.notes) - self._told:
            if len(self._told) < _MAX_TOLD:
                self._told.add(note)
                logger().info("note", block=decision.block, note=note)

    # ---- housekeeping -----------------------------------------------------------------------------------------

    async def _keep_house(self) -> None:
        while True:
            due = self._loop.time() + _HOUSEKEEPING_S
            await asyncio.sleep(_HOUSEKEEPING_S)
            self.metrics.loop_lag(self._loop.time() - due)
            self._count_up()
            if self.publisher is not None:
                self.publisher.attend()
            if self.twin is not None:
                self.twin.attend(self.page)
            self.watch()

    def iq_told(self) -> IqTold:
        """What came of the IQ so far, wherever it is estimated."""
        return self.source.told if isinstance(self.source, LiveReceiver) else self._iq.told()

    def drops(self) -> Counter[str]:
        """Everything let go so far, by reason."""
        # Copies: the receive thread counts on.
        iq = self.iq_told()
        of_iq = Counter(shed=iq.shed_blocks, too_many_radios=iq.too_many_radios)
        unused = Counter[str]() if self._on_air is None else self._on_air.unused
        return self.dropped.copy() + unused + self.session.mailbox.dropped + self.source.rejected.copy() + of_iq

    def _count_up(self) -> None:
        journal, iq = self.session.journal, self.iq_told()
        self.metrics.totals(self.drops(), self.source.gaps, journal.unwritten if journal is not None else 0)
        self.metrics.iq_totals(iq.missing_samples, iq.shed_samples)
        self._iq_log.look(iq)
        self.metrics.audited(self.session.state.audit)
        for topic, came_ns in self._came_ns.items():
            self.metrics.silent_for(topic, (self.clock.now_ns() - came_ns) * 1e-9)

    def summary(self) -> dict[str, Any]:
        """What the run did, in the fields of CLI-JSON."""
        report, journal = self.session.report, self.session.journal
        found: dict[str, Any] = {
            "blocks": report.decisions,
            **report.summary(self.session.state),
            "missed": report.missed,
            "latency_ms": report.latency.summary_ms(50, 99, 99.9),
            "stages_ms": self.session.stages.summary_ms(),
            "drops": dict(self.drops()),
        }
        if self.source.gaps:
            found["lost"] = self.source.gaps
        found.update(self.iq_told().summary())
        if self.twin is not None:
            found["twin"] = report.traces.summary() | self.twin.summary()
        if journal is not None:
            found["journal"] = str(journal.path)
            if journal.fault:
                found["journal_fault"] = f"{journal.fault}; {journal.unwritten} messages not written"
        return found
