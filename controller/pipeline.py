"""One coherence block: frames in, decision out. This file is the algorithm, in order.

    measure    frames and decoded feedback become looks
    learn      prior (twin + mean error) -> posterior by LMMSE; the innovation updates its zone  (P1 eq. 9, P2, P3, P5)
    believe    every belief is carried to the time that the decision will be on air
    design     RIS phases by alignment, then the precoder from the effective beliefs             (P1)
    ladder     design -> hold the last feasible one -> silence
    check      power, unit modulus, finiteness; then promise an outage that the audit will settle

`Pipeline.step` is synchronous and pure: it reads no clock and changes nothing but what it returns, so that a journal
replayed gives the same decisions to the byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np

from controller.audit import OutageAudit
from controller.beamforming import PRECODERS, DesignProblem
from controller.beamforming.feasibility import infeasibility
from controller.beamforming.linear import sinr
from controller.beamforming.ris import conjugate_phases
from controller.belief import ChannelBelief
from controller.codec import CsiDecoder
from controller.config import Config
from controller.covariance import Complex, Real
from controller.ladder import DESIGNING, Rung, from_rung
from controller.looks import Look, looks_of
from controller.mailbox import Inputs
from controller.outage import outages
from controller.prior import Prior, ZeroPrior
from controller.tracking import Knowledge, Tracker, UserTrack, belief_of, newest_tracks, without_absent
from controller.zones import GridZones, WholeSite, ZoneMap
from ingest.messages import BlockDecision, StepBudget

Trace = Callable[[str], AbstractContextManager[None]]

_POWER_HEADROOM = 1e-6
"""Share of the power budget left unused, so that rounding the precoder to complex64 stays within it."""


@contextmanager
def untimed(stage: str) -> Iterator[None]:
    """The trace that measures nothing; the edge passes one that does."""
    yield


@dataclass(frozen=True)
class State:
    """Everything that one step hands to the next. knowledge: None until the site's shape is known."""

    knowledge: Knowledge | None
    theta: Complex
    theta_block: int | None = None
    design: BlockDecision | None = None
    audit: OutageAudit = field(default_factory=OutageAudit)
    seq: int = 0


@dataclass(frozen=True)
class Designed:
    """What a design is made from and for, and what it promises: users in the order of the problem's rows.

    expected_sinr and promised_outage [K]: SINR on the mean channels, and the probability that it misses its target.
    """

    tracks: Mapping[str, UserTrack]
    problem: DesignProblem
    precoder: Complex
    expected_sinr: Real
    promised_outage: Real


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
        with trace("measure"):
            for outcome in inputs.outcomes:
                state = replace(state, audit=state.audit.settle(outcome))
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
        beliefs = {name: belief_of(knowledge, track, budget.t_ns, budget.lead_s) for name, track in tracks.items()}
        return tracks, beliefs

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
                designed = self._design(state, tracks, beliefs, notes)
                if designed is not None:
                    decision = self._promise(state, designed, budget, rung, notes)
                    return replace(state, design=decision), decision
            last = state.design
            if rung == "hold" and last is not None:
                if budget.block - last.designed_block <= self.config.block.hold_blocks:
                    return state, _again(last, state, budget, notes)
                notes.append("held design expired")
        return state, _silence(state, budget, notes)

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
        due = state.theta_block is None or budget.block - state.theta_block >= design.ris_update_blocks
        if not (state.theta.size and due and design.ris == "align"):
            return state
        cascades = np.stack([belief.mean for belief in beliefs.values()])
        theta = conjugate_phases(cascades, state.theta, min(design.ris_sweeps, budget.iterations))
        return replace(state, theta=theta, theta_block=budget.block)

    def _design(
        self,
        state: State,
        tracks: Mapping[str, UserTrack],
        beliefs: Mapping[str, ChannelBelief],
        notes: list[str],
    ) -> Designed | None:
        """Precoder for the RIS phases of `state`; None, and a note, where it may not be emitted."""
        pattern = np.concatenate([np.ones(1), state.theta])
        effective = [belief.effective(pattern) for belief in beliefs.values()]
        link, users = self.config.link, tuple(beliefs)
        measured = np.array([tracks[user].look.observation.noise_power for user in users])
        problem = DesignProblem(
            means=np.stack([mean for mean, _ in effective]),
            covariances=np.stack([covariance for _, covariance in effective]),
            noise_power=link.noise_w(measured),
            sinr_target=2.0 ** link.rate_targets(users) - 1.0,
            power=link.power_w(),
        )
        try:
            precoder = PRECODERS[self.config.design.precoder](problem) * (1.0 - _POWER_HEADROOM)
            wrong = infeasibility(precoder.astype(np.complex64), state.theta, problem.power)
        except np.linalg.LinAlgError as error:
            wrong = str(error)
        if wrong is None:
            expected, promised = sinr(problem.means, precoder, problem.noise_power), outages(problem, precoder)
            if np.isfinite(expected).all() and np.isfinite(promised).all():
                return Designed(tracks, problem, precoder, expected, promised)
            wrong = "promises nothing finite"
        notes.append(f"{self.config.design.precoder}: {wrong}")
        return None

    def _promise(
        self, state: State, designed: Designed, budget: StepBudget, rung: Rung, notes: list[str]
    ) -> BlockDecision:
        """The decision, with the SINR it expects and the outage it promises to each user."""
        problem, precoder, tracks = designed.problem, designed.precoder, designed.tracks
        assert state.knowledge is not None
        zones = state.knowledge.zones
        return BlockDecision(
            source="twinbeam",
            epoch=0,
            seq=state.seq,
            t_ns=budget.t_ns,
            block=budget.block,
            rung=rung,
            users=tuple(tracks),
            validity=tuple(zones[track.zone].validity for track in tracks.values()),
            designed_block=budget.block,
            power=float(np.sum(np.abs(precoder) ** 2)),
            notes=tuple(notes),
            precoder=precoder.astype(np.complex64),
            theta=state.theta.astype(np.complex64),
            sinr_db=(10 * np.log10(np.maximum(designed.expected_sinr, 1e-30))).astype(np.float32),
            promised_outage=designed.promised_outage.astype(np.float32),
            rate_target_bps_hz=np.log2(problem.sinr_target + 1.0).astype(np.float32),
            residual_db=np.array([track.residual_db for track in tracks.values()], np.float32),
        )


def _knowing(state: State, prior: Prior | None) -> State:
    """`state` with a prior and its RIS elements in phase."""
    if prior is None:
        return state
    return replace(state, knowledge=Knowledge(prior), theta=np.ones(prior.rows - 1, np.complex128))


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


def _again(decision: BlockDecision, state: State, budget: StepBudget, notes: list[str]) -> BlockDecision:
    """`decision` held for another block."""
    return msgspec.structs.replace(
        decision, seq=state.seq, t_ns=budget.t_ns, block=budget.block, rung="hold", notes=tuple(notes)
    )


def _silence(state: State, budget: StepBudget, notes: list[str]) -> BlockDecision:
    """No power to anyone: what is safe when nothing is known."""
    antennas = state.knowledge.prior.antennas if state.knowledge is not None else 0
    nobody = np.zeros(0, np.float32)
    return BlockDecision(
        source="twinbeam",
        epoch=0,
        seq=state.seq,
        t_ns=budget.t_ns,
        block=budget.block,
        rung="silence",
        users=(),
        validity=(),
        designed_block=budget.block,
        power=0.0,
        notes=tuple(notes),
        precoder=np.zeros((antennas, 0), np.complex64),
        theta=state.theta.astype(np.complex64),
        sinr_db=nobody,
        promised_outage=nobody,
        rate_target_bps_hz=nobody,
        residual_db=nobody,
    )
