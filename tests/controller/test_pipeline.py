"""One coherence block: pure, deterministic, feasible whatever comes in, and honest about what it lacks."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.beamforming.feasibility import infeasibility
from controller.config import Config, watts
from controller.mailbox import Inputs
from controller.pipeline import Pipeline, State
from controller.prior import ZeroPrior
from controller.report import StageClock
from ingest.journal import pack
from ingest.messages import BlockDecision, ChannelFrame, FeedbackFrame, OutcomeFrame, no_array
from tests.random_channels import budget, complex_normal, frame, unit_phases

ANTENNAS, ELEMENTS = 4, 6


def digest(value: Any) -> str:
    """A hash over every number and name inside nested dataclasses, mappings and messages."""
    sha = hashlib.sha256()

    def visit(part: Any) -> None:
        if dataclasses.is_dataclass(part):
            for one in dataclasses.fields(part):
                visit(getattr(part, one.name))
        elif isinstance(part, msgspec.Struct):
            for name in part.__struct_fields__:
                visit(getattr(part, name))
        elif isinstance(part, dict):
            for key, one in part.items():
                sha.update(repr(key).encode())
                visit(one)
        elif isinstance(part, np.ndarray):
            sha.update(part.tobytes())
        elif isinstance(part, tuple | list):
            for one in part:
                visit(one)
        elif not callable(part):
            sha.update(repr(part).encode() if not isinstance(part, ZeroPrior) else b"prior")

    visit(value)
    return sha.hexdigest()


def pipeline(**tables: Any) -> Pipeline:
    """A controller without a twin."""
    return Pipeline.build(Config.model_validate(tables), None, {})


def ris_frames(rng: np.random.Generator, block: int, users: int = 2, gain: float = 1e-5) -> Inputs:
    """A whole cascade of every user, as a sounding gives it."""
    cascades = [gain * complex_normal(rng, ELEMENTS + 1, ANTENNAS) for _ in range(users)]
    return Inputs(
        channels=tuple(
            frame(cascade, user=f"ue{k}", block=block, t_ns=block * 10**7, cascade=True, noise_power=1e-14)
            for k, cascade in enumerate(cascades)
        )
    )


def plain_frames(rng: np.random.Generator, block: int, users: int = 2, **changes: Any) -> Inputs:
    """An effective channel of every user of a site without a RIS."""
    return Inputs(
        channels=tuple(
            frame(complex_normal(rng, 1, ANTENNAS), user=f"ue{k}", block=block, t_ns=block * 10**7, **changes)
            for k in range(users)
        )
    )


def play(
    controller: Pipeline, inputs: list[Inputs], rungs: list[str] | None = None
) -> tuple[State, list[BlockDecision]]:
    """Step through `inputs`, one block each."""
    state, decisions = controller.start(), []
    for block, one in enumerate(inputs):
        rung = rungs[block] if rungs else "linear"
        state, decision = controller.step(state, one, budget(block, rung=rung))
        decisions.append(decision)
    return state, decisions


def test_step_changes_nothing_but_what_it_returns(rng: np.random.Generator) -> None:
    controller = pipeline()
    state, _ = play(controller, [ris_frames(rng, 0), ris_frames(rng, 1)])
    before, inputs, granted = digest(state), ris_frames(rng, 2), budget(2)
    taken = digest(inputs)
    first_state, first = controller.step(state, inputs, granted)
    second_state, second = controller.step(state, inputs, granted)
    assert pack(first) == pack(second)
    assert digest(first_state) == digest(second_state) != before
    assert digest(state) == before
    assert digest(inputs) == taken


def test_timing_a_step_does_not_change_it(rng: np.random.Generator) -> None:
    controller, clock = pipeline(), StageClock()
    inputs = ris_frames(rng, 0)
    _, plain = controller.step(controller.start(), inputs, budget(0))
    _, timed = controller.step(controller.start(), inputs, budget(0), clock)
    assert pack(plain) == pack(timed)
    assert set(clock.tallies) == {"measure", "learn", "believe", "design"}


def test_silence_before_anything_is_known() -> None:
    _, (decision,) = play(pipeline(), [Inputs()])
    assert decision.rung == "silence"
    assert decision.power == 0.0
    assert decision.precoder.size == 0


def test_every_user_heard_is_served_within_power(rng: np.random.Generator) -> None:
    controller = pipeline(link={"power_dbm": 30.0, "noise_dbm": -94.0})
    _, (decision,) = play(controller, [ris_frames(rng, 0, users=3)])
    assert decision.rung == "linear"
    assert decision.users == ("ue0", "ue1", "ue2")
    assert decision.precoder.shape == (ANTENNAS, 3)
    assert infeasibility(decision.precoder, decision.theta, watts(30.0)) is None
    assert decision.power == pytest.approx(watts(30.0), rel=1e-5)
    assert np.all((decision.promised_outage >= 0) & (decision.promised_outage <= 1))
    assert np.allclose(decision.rate_target_bps_hz, 1.0)


@given(
    exponent=st.floats(-15, 15),
    noise_exponent=st.floats(-30, 15),
    users=st.integers(1, 6),
    kind=st.sampled_from(["random", "zero", "same", "one antenna"]),
    precoder=st.sampled_from(["mrt", "zf", "rzf"]),
)
@settings(max_examples=80, deadline=None)
def test_nothing_infeasible_is_emitted(
    exponent: float, noise_exponent: float, users: int, kind: str, precoder: str
) -> None:
    """Any level, any noise, users alike, silent or rank-deficient: finite and within power, or not emitted."""
    rng = np.random.default_rng(users)
    controller = pipeline(design={"precoder": precoder})
    channels = 10.0**exponent * complex_normal(rng, users, 1, ANTENNAS)
    if kind == "zero":
        channels[0] = 0
    elif kind == "same":
        channels[:] = channels[0]
    elif kind == "one antenna":
        channels[..., 1:] = 0
    frames = tuple(frame(channels[k], user=f"ue{k}", noise_power=10.0**noise_exponent) for k in range(users))
    _, (first, second) = play(controller, [Inputs(channels=frames)] * 2)
    for decision in (first, second):
        assert infeasibility(decision.precoder, decision.theta, 1.0) is None
        assert np.isfinite(decision.sinr_db).all()
        assert np.isfinite(decision.residual_db).all()
        assert np.all((decision.promised_outage >= 0) & (decision.promised_outage <= 1))


def test_without_time_the_last_design_is_held_until_it_expires(rng: np.random.Generator) -> None:
    controller = pipeline(block={"hold_blocks": 3})
    inputs = [ris_frames(rng, 0)] + [Inputs()] * 5
    _, decisions = play(controller, inputs, ["linear"] + ["hold"] * 5)
    assert [one.rung for one in decisions] == ["linear", "hold", "hold", "hold", "silence", "silence"]
    assert all(np.array_equal(one.precoder, decisions[0].precoder) for one in decisions[:4])
    assert [one.block for one in decisions] == list(range(6))
    assert [one.seq for one in decisions] == list(range(6))
    assert all(one.designed_block == 0 for one in decisions[:4])
    assert decisions[4].power == 0.0
    assert "held design expired" in decisions[4].notes


def test_silence_can_be_asked_for(rng: np.random.Generator) -> None:
    _, decisions = play(pipeline(), [ris_frames(rng, 0), ris_frames(rng, 1)], ["linear", "silence"])
    assert decisions[1].rung == "silence"
    assert decisions[1].power == 0.0
    assert decisions[1].precoder.shape == (ANTENNAS, 0)


def test_the_best_rung_without_a_robust_solver_is_linear_and_says_so(rng: np.random.Generator) -> None:
    _, (decision,) = play(pipeline(), [ris_frames(rng, 0)], ["robust"])
    assert decision.rung == "linear"
    assert "robust solver: none" in decision.notes


def test_what_is_not_configured_is_told(rng: np.random.Generator) -> None:
    _, (decision,) = play(pipeline(), [plain_frames(rng, 0)])
    assert {"twin: none", "models: none", "zones: none"} <= set(decision.notes)
    _, decisions = play(pipeline(zones={"method": "grid"}), [plain_frames(rng, 0)] * 2)
    assert "zones: none" not in decisions[1].notes
    assert "RIS: none" in decisions[1].notes


def test_a_user_not_heard_of_lately_is_not_designed_for(rng: np.random.Generator) -> None:
    controller = pipeline(block={"stale_after_s": 0.015})
    alone = Inputs(channels=plain_frames(rng, 1).channels[:1])
    _, decisions = play(controller, [plain_frames(rng, 0), alone, Inputs(), Inputs()])
    assert decisions[1].users == ("ue0", "ue1")
    assert decisions[2].users == ("ue0",)
    assert decisions[3].rung == "hold"


def test_no_more_users_than_the_link_has(rng: np.random.Generator) -> None:
    controller = pipeline(link={"max_users": 2})
    later = Inputs(channels=plain_frames(rng, 1, users=4).channels[2:])
    _, decisions = play(controller, [plain_frames(rng, 0, users=4), later])
    assert len(decisions[0].users) == 2
    assert decisions[1].users == ("ue2", "ue3"), "those heard last come first"


def test_users_that_come_and_go_leave_nothing_behind(rng: np.random.Generator) -> None:
    controller = pipeline(block={"stale_after_s": 0.05})
    state = controller.start()
    for block in range(400):
        inputs = Inputs(
            channels=(frame(complex_normal(rng, 1, ANTENNAS), user=f"ue{block}", block=block, t_ns=block * 10**7),)
        )
        state, _ = controller.step(state, inputs, budget(block))
    assert state.knowledge is not None
    assert len(state.knowledge.users) <= 128


def test_frames_of_another_shape_are_told_and_left(rng: np.random.Generator) -> None:
    controller = pipeline()
    odd = frame(complex_normal(rng, 1, ANTENNAS + 1), user="odd", block=1, t_ns=10**7)
    mixed = Inputs(channels=(*plain_frames(rng, 1).channels, odd))
    _, decisions = play(controller, [plain_frames(rng, 0), mixed])
    assert decisions[1].users == ("ue0", "ue1")
    assert any(note.startswith("odd: 5 antennas") for note in decisions[1].notes)


def test_feedback_of_an_unknown_codec_is_told_and_left(rng: np.random.Generator) -> None:
    feedback = FeedbackFrame(
        source="test",
        epoch=0,
        seq=0,
        t_ns=0,
        user="ue0",
        block=0,
        codec="csinet-512",
        codeword=np.zeros(4, np.float32),
        powers_dbm=np.zeros(0, np.float32),
        ris_pattern=no_array(0),
        gain=1.0,
    )
    inputs = Inputs(channels=plain_frames(rng, 0).channels[:1], feedback=(feedback,))
    _, (decision,) = play(pipeline(), [inputs])
    assert decision.rung == "linear"
    assert "ue0: codec csinet-512 is not configured" in decision.notes


def test_rate_targets_are_each_user_s_own(rng: np.random.Generator) -> None:
    controller = pipeline(link={"rate_target_bps_hz": 2.0, "rate_targets_bps_hz": {"ue1": 0.5}})
    _, (decision,) = play(controller, [plain_frames(rng, 0)])
    assert decision.rate_target_bps_hz == pytest.approx([2.0, 0.5])


def test_ris_phases_rest_between_updates(rng: np.random.Generator) -> None:
    controller = pipeline(design={"ris_update_blocks": 3})
    _, decisions = play(controller, [ris_frames(rng, block) for block in range(7)])
    theta = [one.theta.tobytes() for one in decisions]
    assert theta[0] == theta[1] == theta[2] != theta[3] == theta[4] == theta[5] != theta[6]


def test_fixed_phases_stay(rng: np.random.Generator) -> None:
    _, decisions = play(pipeline(design={"ris": "fixed"}), [ris_frames(rng, block) for block in range(3)])
    assert all(np.array_equal(one.theta, np.ones(ELEMENTS)) for one in decisions)


def test_outcomes_settle_promises(rng: np.random.Generator) -> None:
    controller = pipeline()
    state, decisions = play(controller, [plain_frames(rng, 0)])
    outcomes = tuple(
        OutcomeFrame(
            source="test",
            epoch=0,
            seq=k,
            t_ns=10**7,
            user=user,
            block=0,
            decision_seq=0,
            received_power_dbm=-60.0,
            sinr_db=0.0,
            rate_bps_hz=rate,
            ack=rate >= 1.0,
        )
        for k, (user, rate) in enumerate([("ue0", 0.9), ("ue1", 1.1)])
    )
    state, _ = controller.step(state, Inputs(outcomes=outcomes), budget(1))
    assert state.audit.users["ue0"].realised == 1
    assert state.audit.users["ue1"].realised == 0
    assert state.audit.total().promised == pytest.approx(float(decisions[0].promised_outage.sum()))


def test_the_unknown_phase_of_an_oscillator_does_not_matter(rng: np.random.Generator) -> None:
    """Frames turned by any common phase give the same powers and promises: no design may depend on it."""
    inputs = [ris_frames(rng, block) for block in range(4)]

    def turned(one: Inputs) -> Inputs:
        phases = unit_phases(rng, len(one.channels)).astype(np.complex64)
        return Inputs(
            channels=tuple(
                msgspec.structs.replace(channel, cfr=channel.cfr * phase)
                for channel, phase in zip(one.channels, phases, strict=True)
            )
        )

    _, plain = play(pipeline(), inputs)
    _, other = play(pipeline(), [turned(one) for one in inputs])
    for one, two in zip(plain, other, strict=True):
        assert two.sinr_db == pytest.approx(one.sinr_db, abs=1e-2)
        assert two.promised_outage == pytest.approx(one.promised_outage, abs=1e-3)


def test_promises_hold_for_channels_of_known_statistics() -> None:
    """Rayleigh fading about a line of sight, drawn anew in every block: promised and realised outage agree.

    The scored design has seen only earlier, noisy frames. Tolerance: five standard errors of the realised share, plus
    what learning from finitely many frames leaves.
    """
    rng = np.random.default_rng(7)
    controller = pipeline(zones={"method": "grid"}, learning={"prior_weight": 1.0})
    steering = np.exp(1j * np.pi * np.outer([0.1, -0.45], np.arange(ANTENNAS)))
    noise = 0.3
    state, promised, realised = controller.start(), [], []
    decision = None
    for block in range(1500):
        channels = steering + 0.5 * complex_normal(rng, 2, ANTENNAS)
        if decision is not None and block > 300:
            received = np.abs(channels @ decision.precoder) ** 2
            wanted = np.diag(received)
            rates = np.log2(1 + wanted / (received.sum(axis=1) - wanted + noise))
            promised.append(decision.promised_outage)
            realised.append(rates < 1.0)
        measured = channels + np.sqrt(noise) * complex_normal(rng, 2, ANTENNAS)
        frames: tuple[ChannelFrame, ...] = tuple(
            frame(
                measured[k][None],
                user=f"ue{k}",
                block=block,
                t_ns=block * 10**7,
                noise_power=noise,
                position_m=(100.0 * k, 0.0, 0.0),
            )
            for k in range(2)
        )
        state, decision = controller.step(state, Inputs(channels=frames), budget(block, lead_s=1e-2))
    expected, got = float(np.mean(promised)), float(np.mean(realised))
    assert 0.005 < expected < 0.4
    assert got == pytest.approx(expected, abs=5 * np.sqrt(expected / len(realised) / 2) + 0.3 * expected)
