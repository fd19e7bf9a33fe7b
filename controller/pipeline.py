"""One coherence block: frames in, decision out. This file is the algorithm, in order.

    twin       a fresh trace of the users goes into the prior, where the twin is traced live
    measure    frames and decoded feedback become looks
    learn      prior (twin + mean error) -> posterior by LMMSE; the innovation updates its zone  (P1 eq. 9, P2, P3, P5)
    believe    every belief is carried to the time that the decision will be on air
    design     RIS phases by alignment, then the precoder from the effective beliefs             (P1)
    ladder     design -> hold the last feasible one, with what it can still promise -> silence
    check      power, unit modulus, finiteness; then promise an outage that the audit will settle

`Pipeline.step` is synchronous and pure: it reads no clock and changes nothing but what it returns, so that a journal
replayed gives the same decisions to the byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from controller.audit import OutageAudit
from controller.beamforming import PRECODERS, DesignProblem
from controller.beamforming.ris import conjugate_phases, nearest_states
from controller.belief import ChannelBelief
from controller.codec import CsiDecoder
from controller.config import Config
from controller.covariance import Complex
from controller.decision import Emission, NotEmitted, promise, silence
from controller.ladder import DESIGNING, from_rung
from controller.looks import Look, looks_of
from controller.mailbox import Inputs
from controller.prior import Prior, TwinPrior, ZeroPrior
from controller.tracking import Knowledge, Tracker, UserTrack, belief_of, newest_tracks, tracks_of, without_absent
from controller.zones import GridZones, WholeSite, ZoneMap
from ingest.messages import BlockDecision, StepBudget, TwinFrame

Trace = Callable[[str], AbstractContextManager[None]]

TWIN_STALE = "twin: stale"
"""Note of a decision whose newest trace is older than `[twin] stale_after_s`."""

_POWER_HEADROOM = 1e-6
"""Share of the power budget left unused, so that rounding the precoder to complex64 stays within it."""


@contextmanager
def untimed(stage: str) -> Iterator[None]:
    """The trace that measures nothing; the edge passes one that does."""
    yield


@dataclass(frozen=True)
class State:
    """Everything that one step hands to the next. knowledge: None until the site's shape is known.

    Ages are counted in decisions (seq): a sender that begins anew counts its blocks from 0 again.
    """

    knowledge: Knowledge | None
    theta: Complex
    theta_seq: int | None = None
    design: BlockDecision | None = None
    audit: OutageAudit = field(default_factory=OutageAudit)
    seq: int = 0


@dataclass(frozen=True)
class Pipeline:
    """What does not change during a run. `start` gives the first state, `step` every further one."""

    config: Config
    tracker: Tracker
    decoders: Mapping[str, CsiDecoder]
    prior: Prior | None

    @classmethod
    def build(cls, config: Config, prior: Prior | None, decoders: Mapping[str, CsiDecoder]) -> Pipeline:
        """A pipeline for `config`; prior is None for a site without a twin."""
        zones = config.zones
        zone_map: ZoneMap = GridZones(zones.cell_m) if zones.method == "grid" else WholeSite()
        return cls(config, Tracker(zone_map, config.learning.rule(), zones.max_zones), decoders, prior)

    def start(self) -> State:
        """The state before the first block."""
        return _knowing(State(None, np.zeros(0, np.complex128)), self.prior)

    def step(
        self, state: State, inputs: Inputs, budget: StepBudget, trace: Trace = untimed
    ) -> tuple[State, BlockDecision]:
        """Take in `inputs` and decide for block `budget.block` at time `budget.t_ns`."""
        notes = self._not_configured(state)
        if inputs.twin is not None:
            with trace("twin"):
                state = _traced(state, inputs.twin)
        if self.config.twin.live and _twin_is_stale(state, budget.t_ns, self.config.twin.stale_after_s):
            notes.append(TWIN_STALE)
        with trace("measure"):
            for outcome in inputs.outcomes:
                state = replace(state, audit=state.audit.settle(outcome, budget.epoch))
            looks: list[Look] = []
            if budget.rung in DESIGNING:  # else there is no time to learn either
                state, looks = _fitting(state, looks_of(inputs, self.decoders, notes), notes)
        with trace("learn"):
            for look in looks:
                assert state.knowledge is not None
                state = replace(state, knowledge=self.tracker.observe(state.knowledge, look))
            if state.knowledge is not None:
                kept = without_absent(state.knowledge, budget.t_ns, self.config.block.stale_after_s)
                state = replace(state, knowledge=kept)
        with trace("believe"):
            tracks, beliefs = self._believe(state, budget)
        with trace("design"):
            state, decision = self._climb_down(state, tracks, beliefs, budget, notes)
        return replace(state, audit=state.audit.promise(decision), seq=state.seq + 1), decision

    def _believe(self, state: State, budget: StepBudget) -> tuple[dict[str, UserTrack], dict[str, ChannelBelief]]:
        """Every user heard of lately, and its belief at the middle of the decision's time on air."""
        knowledge = state.knowledge
        if knowledge is None or budget.rung not in DESIGNING:
            return {}, {}
        stale_after_s, max_users = self.config.block.stale_after_s, self.config.link.max_users
        tracks = newest_tracks(knowledge, budget.t_ns, stale_after_s, max_users)
        return tracks, self._beliefs(knowledge, tracks, budget)

    def _beliefs(
        self, knowledge: Knowledge, tracks: Mapping[str, UserTrack], budget: StepBudget
    ) -> dict[str, ChannelBelief]:
        return {name: belief_of(knowledge, track, budget.t_ns, budget.lead_s) for name, track in tracks.items()}

    # ---- the deadline ladder ----------------------------------------------------------------------------------

    def _climb_down(
        self,
        state: State,
        tracks: Mapping[str, UserTrack],
        beliefs: Mapping[str, ChannelBelief],
        budget: StepBudget,
        notes: list[str],
    ) -> tuple[State, BlockDecision]:
        """The decision of the first rung, from the best that the budget allows, that yields a feasible one."""
        for rung in from_rung(budget.rung):
            if rung == "linear" and beliefs:
                state = self._align(state, beliefs, budget)
                decision = self._design(state, tracks, beliefs, budget, notes)
                if decision is not None:
                    return replace(state, design=decision), decision
            if rung == "hold":
                held = self._hold(state, budget, notes)
                if held is not None:
                    return state, held
        antennas = state.knowledge.prior.antennas if state.knowledge is not None else 0
        return state, silence(antennas, state.theta, state.seq, budget, notes)

    def _hold(self, state: State, budget: StepBudget, notes: list[str]) -> BlockDecision | None:
        """The last design for another block, with what it can promise by now; None where there is none to hold."""
        last, knowledge = state.design, state.knowledge
        if last is None or knowledge is None:
            return None
        tracks = tracks_of(knowledge, last.users)
        if state.seq - last.seq > self.config.block.hold_blocks or len(tracks) < len(last.users):
            notes.append("held design expired")
            return None
        theta = last.theta.astype(np.complex128)
        problem = self._problem(theta, tracks, self._beliefs(knowledge, tracks, budget))
        emission = Emission("hold", state.seq, last.designed_block, budget, tuple(notes))
        try:
            return promise(
                problem,
                last.precoder.astype(np.complex128),
                theta,
                knowledge,
                tracks,
                emission,
                state.audit.margins,
            )
        except NotEmitted as reason:
            notes.append(f"hold: {reason}")
            return None

    def _not_configured(self, state: State) -> list[str]:
        """What this controller could use and was not given."""
        missing = ["robust solver: none"]
        if self.prior is None:
            missing.append("twin: none")
        if self.config.zones.method == "whole-site":
            missing.append("zones: none")
        if not self.decoders:
            missing.append("models: none")
        if state.knowledge is not None and state.knowledge.prior.rows == 1:
            missing.append("RIS: none")
        return missing

    # ---- design -----------------------------------------------------------------------------------------------

    def _align(self, state: State, beliefs: Mapping[str, ChannelBelief], budget: StepBudget) -> State:
        """New RIS phases when they are due; until then measurements keep telling about the ones that are set."""
        design = self.config.design
        due = state.theta_seq is None or state.seq - state.theta_seq >= design.ris_update_blocks
        if not (state.theta.size and due and design.ris == "align"):
            return state
        cascades = np.stack([belief.mean for belief in beliefs.values()])
        assert state.knowledge is not None
        states, sweeps = state.knowledge.prior.ris_states, min(design.ris_sweeps, budget.iterations)
        if len(states):
            theta = nearest_states(cascades, state.theta, sweeps, states)
        else:
            theta = conjugate_phases(cascades, state.theta, sweeps)
        return replace(state, theta=theta, theta_seq=state.seq)

    def _design(
        self,
        state: State,
        tracks: Mapping[str, UserTrack],
        beliefs: Mapping[str, ChannelBelief],
        budget: StepBudget,
        notes: list[str],
    ) -> BlockDecision | None:
        """The decision for the RIS phases of `state`; None, and a note, where it may not be emitted."""
        assert state.knowledge is not None
        problem = self._problem(state.theta, tracks, beliefs)
        emission = Emission("linear", state.seq, budget.block, budget, tuple(notes))
        try:
            precoder = PRECODERS[self.config.design.precoder](problem) * (1.0 - _POWER_HEADROOM)
            margins = state.audit.margins
            return promise(problem, precoder, state.theta, state.knowledge, tracks, emission, margins)
        except (np.linalg.LinAlgError, NotEmitted) as reason:
            notes.append(f"{self.config.design.precoder}: {reason}")
            return None

    def _problem(
        self, theta: Complex, tracks: Mapping[str, UserTrack], beliefs: Mapping[str, ChannelBelief]
    ) -> DesignProblem:
        """What the link asks for under RIS phases theta [M]."""
        pattern = np.concatenate([np.ones(1), theta])
        effective = [belief.effective(pattern) for belief in beliefs.values()]
        link, users = self.config.link, tuple(beliefs)
        measured = np.array([tracks[user].look.observation.noise_power for user in users])
        return DesignProblem(
            means=np.stack([mean for mean, _ in effective]),
            covariances=np.stack([covariance for _, covariance in effective]),
            noise_power=link.noise_w(measured),
            sinr_target=2.0 ** link.rate_targets(users) - 1.0,
            power=link.power_w(),
        )


def _knowing(state: State, prior: Prior | None) -> State:
    """`state` with a prior and its RIS elements in phase."""
    if prior is None:
        return state
    first = prior.ris_states[0] if len(prior.ris_states) else 1.0
    return replace(state, knowledge=Knowledge(prior), theta=np.full(prior.rows - 1, first, np.complex128))


def _traced(state: State, frame: TwinFrame) -> State:
    """`state` with a trace in its prior, where that is a twin's."""
    knowledge = state.knowledge
    if knowledge is None or not isinstance(knowledge.prior, TwinPrior):
        return state
    return replace(state, knowledge=replace(knowledge, prior=knowledge.prior.after(frame)))


def _twin_is_stale(state: State, now_ns: int, stale_after_s: float) -> bool:
    """Whether a twin that is traced live knows of no place that users were at lately."""
    prior = state.knowledge.prior if state.knowledge is not None else None
    traced_ns = prior.traced_ns if isinstance(prior, TwinPrior) else None
    return traced_ns is None or now_ns - traced_ns > stale_after_s * 1e9


def _fitting(state: State, looks: list[Look], notes: list[str]) -> tuple[State, list[Look]]:
    """The looks of the site's shape. Where there is no twin, the first look of the run sets the shape."""
    if not looks:
        return state, []
    if state.knowledge is None:
        rows, antennas = looks[0].shape
        state = _knowing(state, ZeroPrior(rows, antennas, float(np.mean(np.abs(looks[0].measured) ** 2))))
    assert state.knowledge is not None
    rows, antennas = state.knowledge.prior.rows, state.knowledge.prior.antennas
    fitting = []
    for look in looks:
        if look.shape == (rows, antennas):
            fitting.append(look)
        else:
            seen = f"{look.shape[1]} antennas and {look.shape[0] - 1} RIS elements"
            notes.append(f"{look.user}: {seen}, the site has {antennas} and {rows - 1}")
    return state, fitting
