"""A run of the pipeline with its mailbox, journal and report; live runs and replays share it to the letter."""

from __future__ import annotations

from dataclasses import dataclass, field

from controller.mailbox import Mailbox
from controller.pipeline import Pipeline, State
from controller.report import RunReport, StageClock
from ingest.journal import JournalWriter
from ingest.messages import BlockDecision, Message, StepBudget


@dataclass
class Session:
    """Messages in by `put`, decisions out by `step`, everything journalled in between."""

    pipeline: Pipeline
    journal: JournalWriter | None = None
    mailbox: Mailbox = field(default_factory=Mailbox)
    report: RunReport = field(default_factory=RunReport)
    stages: StageClock = field(default_factory=StageClock)
    state: State = field(init=False)

    def __post_init__(self) -> None:
        self.state = self.pipeline.start()

    def put(self, message: Message) -> None:
        """Take one message in."""
        self.mailbox.put(message)
        if self.journal is not None:
            self.journal.write(message)

    def step(self, budget: StepBudget) -> BlockDecision:
        """Decide with what came in since the last step."""
        if self.journal is not None:
            self.journal.write(budget)
        self.stages.last_s.clear()
        inputs = self.mailbox.drain()
        self.state, decision = self.pipeline.step(self.state, inputs, budget, self.stages)
        self.report.decided(decision)
        if inputs.twin is not None:
            self.report.traces.add(inputs.twin)
        if self.journal is not None:
            self.journal.write(decision)
        return decision
