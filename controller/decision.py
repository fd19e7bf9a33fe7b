"""Decisions as they are emitted: checked, with what they promise; or silence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from controller.beamforming import DesignProblem
from controller.beamforming.feasibility import infeasibility
from controller.beamforming.linear import sinr
from controller.covariance import Complex, Real
from controller.ladder import Rung
from controller.outage import outages
from controller.sinr_interval import Margins, sinr_intervals
from controller.tracking import Knowledge, UserTrack
from ingest.messages import BlockDecision, StepBudget


class NotEmitted(Exception):
    """A design that is infeasible, or promises nothing finite. Says why."""


@dataclass(frozen=True)
class Emission:
    """What a decision says of itself beside its design. seq: its number. designed_block: when the precoder was made."""

    rung: Rung
    seq: int
    designed_block: int
    budget: StepBudget
    notes: tuple[str, ...]


def promise(
    problem: DesignProblem,
    precoder: Complex,
    theta: Complex,
    knowledge: Knowledge,
    tracks: Mapping[str, UserTrack],
    emission: Emission,
    margins: Mapping[str, Margins],
) -> BlockDecision:
    """The decision to use precoder [N, K] and theta [M], with the SINR it expects and the outage it promises.

    tracks: of the users in the order of the problem's rows. margins: of the intervals of SINR, of users that were
    heard before. Raises `NotEmitted`.
    """
    wrong = infeasibility(precoder.astype(np.complex64), theta, problem.power, knowledge.prior.ris_states)
    if wrong is not None:
        raise NotEmitted(wrong)
    expected, promised = sinr(problem.means, precoder, problem.noise_power), outages(problem, precoder)
    ends = sinr_intervals(problem, precoder)
    if not all(np.isfinite(one).all() for one in (expected, promised, *ends)):
        raise NotEmitted("promises nothing finite")
    stated = [
        margins.get(user, Margins()).around(float(low_db), float(high_db))
        for user, low_db, high_db in zip(tracks, *(_decibels(end) for end in ends), strict=True)
    ]
    return BlockDecision(
        source="twinbeam",
        epoch=emission.budget.epoch,
        seq=emission.seq,
        t_ns=emission.budget.t_ns,
        block=emission.budget.block,
        rung=emission.rung,
        users=tuple(tracks),
        validity=tuple(knowledge.zones[track.zone].validity for track in tracks.values()),
        designed_block=emission.designed_block,
        power=float(np.sum(np.abs(precoder) ** 2)),
        notes=emission.notes,
        precoder=precoder.astype(np.complex64),
        theta=theta.astype(np.complex64),
        sinr_db=_decibels(expected),
        sinr_low_db=np.array([low_db for low_db, _ in stated], np.float32),
        sinr_high_db=np.array([high_db for _, high_db in stated], np.float32),
        promised_outage=promised.astype(np.float32),
        rate_target_bps_hz=np.log2(problem.sinr_target + 1.0).astype(np.float32),
        residual_db=np.array([track.residual_db for track in tracks.values()], np.float32),
    )


def _decibels(ratio: Real) -> npt.NDArray[np.float32]:
    return np.asarray(10 * np.log10(np.maximum(ratio, 1e-30)), np.float32)


def silence(antennas: int, theta: Complex, seq: int, budget: StepBudget, notes: list[str]) -> BlockDecision:
    """No power to anyone: what is safe when nothing is known."""
    nobody = np.zeros(0, np.float32)
    return BlockDecision(
        source="twinbeam",
        epoch=budget.epoch,
        seq=seq,
        t_ns=budget.t_ns,
        block=budget.block,
        rung="silence",
        users=(),
        validity=(),
        designed_block=budget.block,
        power=0.0,
        notes=tuple(notes),
        precoder=np.zeros((antennas, 0), np.complex64),
        theta=theta.astype(np.complex64),
        sinr_db=nobody,
        sinr_low_db=nobody,
        sinr_high_db=nobody,
        promised_outage=nobody,
        rate_target_bps_hz=nobody,
        residual_db=nobody,
    )
