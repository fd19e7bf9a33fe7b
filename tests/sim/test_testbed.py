"""The testbed measures, transmits and reports what its world's channels and its settings say, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ingest import wire
from ingest.errors import InputRefused
from ingest.messages import BlockDecision, ChannelFrame, Message, OutcomeFrame, no_array
from sim.channels import SiteChannels
from sim.site import Ris
from sim.testbed import NO_DECISION, TONES, Testbed, TestbedSettings
from tests.random_channels import complex_normal, unit_phases
from tests.sim.hand_made import free_space_bundle

pytestmark = pytest.mark.kernel

Complex = npt.NDArray[np.complex128]

KNOWN_PLACES = TestbedSettings(position_sigma_m=0.0)


@pytest.fixture(scope="module")
def world() -> SiteChannels:
    """Six antennas and four RIS elements in free space."""
    return SiteChannels(free_space_bundle())


def decided(
    users: tuple[str, ...], precoder: Complex, theta: Complex | None = None, *, seq: int = 7, block: int = 0
) -> BlockDecision:
    """A decision that sends `precoder` [N, K] to `users`."""
    numbers = np.zeros(len(users), np.float32)
    return BlockDecision(
        source="test",
        epoch=0,
        seq=seq,
        t_ns=0,
        block=block,
        rung="linear",
        users=users,
        validity=("learning",) * len(users),
        designed_block=block,
        power=float(np.sum(np.abs(precoder) ** 2)),
        precoder=precoder.astype(np.complex64),
        theta=no_array(0) if theta is None else theta.astype(np.complex64),
        sinr_db=numbers,
        sinr_low_db=numbers,
        sinr_high_db=numbers,
        promised_outage=numbers,
        rate_target_bps_hz=numbers,
        residual_db=numbers,
    )


def frames(messages: list[Message], domain: str) -> list[ChannelFrame]:
    return [one for one in messages if isinstance(one, ChannelFrame) and one.domain == domain]


def without_phase(measured: Complex, truth: Complex) -> Complex:
    """`measured` with the common phase that fits `truth` best taken out."""
    turn = np.vdot(truth, measured)
    return np.asarray(measured * (turn.conjugate() / abs(turn)))


def played(world: SiteChannels, settings: TestbedSettings, blocks: int) -> Iterator[Message]:
    """All messages of a run whose decisions come from a generator of their own; every third is late."""
    rng, testbed = np.random.default_rng(5), Testbed(world, settings)
    for block in range(blocks):
        yield from testbed.measure(block * 10**7)
        precoder, theta = complex_normal(rng, 6, 2), unit_phases(rng, 4)
        decision = decided(("ue0", "ue2"), precoder, theta, seq=block, block=block)
        yield from testbed.transmit(None if block % 3 == 2 else decision, block * 10**7 + 5)


def on_wire(messages: Iterator[Message]) -> list[list[bytes]]:
    return [[bytes(part) for part in wire.encode(message)] for message in messages]


def test_a_run_is_a_function_of_its_seed(world: SiteChannels) -> None:
    first, again = (on_wire(played(world, TestbedSettings(), 12)) for _ in range(2))
    assert first == again
    assert first != on_wire(played(world, TestbedSettings(seed=2), 12))


def test_every_message_is_valid_on_the_wire(world: SiteChannels) -> None:
    for message in played(world, TestbedSettings(), 12):
        wire.decode(wire.encode(message))


def test_numbers_run_per_topic(world: SiteChannels) -> None:
    messages = list(played(world, TestbedSettings(), 6))
    for kind in (ChannelFrame, OutcomeFrame):
        numbers = [message.seq for message in messages if isinstance(message, kind)]
        assert numbers == list(range(1, len(numbers) + 1))


def test_every_user_is_measured_and_soundings_go_round(world: SiteChannels) -> None:
    testbed, sounded = Testbed(world, TestbedSettings(sounding_every=2)), []
    for block in range(8):
        messages = testbed.measure(block)
        assert [frame.user for frame in frames(messages, "effective")] == ["ue0", "ue1", "ue2"]
        assert {frame.block for frame in frames(messages, "effective")} == {block}
        sounded.append([frame.user for frame in frames(messages, "cascade")])
        list(testbed.transmit(None, block))
    assert sounded == [["ue0"], [], ["ue1"], [], ["ue2"], [], ["ue0"], []]


def test_soundings_can_be_left_out(world: SiteChannels) -> None:
    testbed = Testbed(world, TestbedSettings(sounding_every=0))
    without_ris = Testbed(SiteChannels(free_space_bundle(ris=False)), TestbedSettings(sounding_every=1))
    for one in (testbed, without_ris):
        assert not frames(one.measure(0), "cascade")


def noise_power(settings: TestbedSettings) -> float:
    """dB by dB: noise at the base station over what the user's pilot was sent with."""
    return float(10 ** ((settings.bs_noise_dbm - (settings.user_power_dbm + settings.pilot_gain_db)) / 10))


def test_the_uplink_errs_by_the_noise_that_it_declares(world: SiteChannels) -> None:
    """Residual power of many frames, chi-square at 5 sigma; one phase per frame is taken out by the fit."""
    settings = TestbedSettings(position_sigma_m=0.0, sounding_every=0, user_power_dbm=-10.0)
    testbed, power, count = Testbed(world, settings), 0.0, 0.0
    tones_hz = (np.arange(TONES) - TONES // 2) * (20e6 / TONES)
    for block in range(30):
        for frame in frames(testbed.measure(block), "effective"):
            assert frame.noise_power == pytest.approx(noise_power(settings))
            np.testing.assert_allclose(frame.tones_hz, tones_hz)
            assert np.array_equal(frame.ris_patterns, np.ones((1, 4)))
            assert frame.position_m is not None
            truth = world.effective_cfr(frame.position_m, np.ones(4), tones_hz)
            power += float(np.sum(np.abs(without_phase(frame.cfr[0], truth) - truth) ** 2)) / frame.noise_power
            count += truth.size - 0.5  # half a complex degree of freedom goes into the phase
        list(testbed.transmit(None, block))
    assert abs(power / count - 1) < 5 / math.sqrt(count)


def test_soundings_err_by_the_noise_that_they_declare(world: SiteChannels) -> None:
    """M + 1 orthogonal patterns average the noise of an entry down by M + 1."""
    settings = TestbedSettings(position_sigma_m=0.0, sounding_every=1, user_power_dbm=-10.0)
    testbed, power, count = Testbed(world, settings), 0.0, 0.0
    for block in range(150):
        (frame,) = frames(testbed.measure(block), "cascade")
        assert frame.noise_power == pytest.approx(noise_power(settings) / 5)
        assert frame.ris_patterns.shape == (5, 0)
        truth = world.cascade(frame.position_m)
        power += float(np.sum(np.abs(without_phase(frame.cfr[:, :, 0], truth) - truth) ** 2)) / frame.noise_power
        count += truth.size - 0.5
        list(testbed.transmit(None, block))
    assert abs(power / count - 1) < 5 / math.sqrt(count)


def test_the_oscillator_phase_is_anywhere(world: SiteChannels) -> None:
    testbed, phases = Testbed(world, KNOWN_PLACES), []
    for block in range(60):
        for frame in frames(testbed.measure(block), "effective"):
            truth = world.effective_cfr(frame.position_m, np.ones(4), frame.tones_hz)
            phases.append(np.angle(np.vdot(truth, frame.cfr[0])))
        list(testbed.transmit(None, block))
    assert abs(np.mean(np.exp(1j * np.array(phases)))) < 5 / math.sqrt(len(phases))


def test_snr_is_measured_power_over_noise(world: SiteChannels) -> None:
    for message in Testbed(world, TestbedSettings()).measure(0):
        assert isinstance(message, ChannelFrame)
        power = np.mean(np.abs(message.cfr) ** 2)
        assert message.snr_db == pytest.approx(10 * np.log10(power / message.noise_power), abs=1e-3)


def test_positions_err_as_set(world: SiteChannels) -> None:
    """Positions are told with an error that the testbed with none does not have."""
    exact, erring = Testbed(world, KNOWN_PLACES), Testbed(world, TestbedSettings(position_sigma_m=0.3))
    steps = []
    for block in range(50):
        for true, told in zip(exact.measure(block), erring.measure(block), strict=True):
            assert isinstance(true, ChannelFrame)
            assert isinstance(told, ChannelFrame)
            steps.append(np.subtract(told.position_m, true.position_m))
            assert told.velocity_m_s == true.velocity_m_s
        list(exact.transmit(None, block))
        list(erring.transmit(None, block))
    assert 0.1 < np.std(steps) < 0.6


def outcomes(testbed: Testbed, decision: BlockDecision | None) -> list[OutcomeFrame]:
    return list(testbed.transmit(decision, 99))


def places_on_air(testbed: Testbed, world: SiteChannels) -> list[npt.NDArray[np.float64]]:
    """Where users will be at the middle of the transmission: `lead_s` on, straight from a first measurement."""
    told = frames(testbed.measure(0), "effective")
    return [np.add(one.position_m, np.multiply(testbed.settings.lead_s, one.velocity_m_s)) for one in told]


def started(world: SiteChannels, **changes: Any) -> Testbed:
    """A testbed one block in, so that velocities are known."""
    testbed = Testbed(world, TestbedSettings(**{"position_sigma_m": 0.0, "sounding_every": 0, **changes}))
    testbed.measure(0)
    list(testbed.transmit(None, 0))
    return testbed


def test_outcomes_are_the_sinr_formula(world: SiteChannels, rng: np.random.Generator) -> None:
    testbed = started(world)
    places = places_on_air(testbed, world)
    precoder, theta = complex_normal(rng, 6, 3), unit_phases(rng, 4).astype(np.complex64)
    decision = decided(("ue2", "ue0", "ue1"), precoder, theta, seq=41)
    noise_w = 10 ** (-94.0 / 10) / 1000
    for outcome, place in zip(outcomes(testbed, decision), places, strict=True):
        h = np.append(1.0, theta) @ world.cascade(place)
        received_w = [abs(sum(h[n] * precoder.astype(np.complex64)[n, k] for n in range(6))) ** 2 for k in range(3)]
        column = decision.users.index(outcome.user)
        sinr = received_w[column] / (sum(received_w) - received_w[column] + noise_w)
        assert outcome.sinr_db == pytest.approx(10 * math.log10(sinr), abs=1e-3)
        assert outcome.rate_bps_hz == pytest.approx(math.log2(1 + sinr), rel=1e-3)
        assert outcome.received_power_dbm == pytest.approx(10 * math.log10(sum(received_w)) + 30, abs=1e-3)
        assert outcome.ack == (math.log2(1 + sinr) >= 1.0)
        assert (outcome.decision_seq, outcome.decision_epoch) == (41, decision.epoch)


def test_a_single_user_has_no_interference(world: SiteChannels) -> None:
    testbed = started(world, users=1)
    (place,) = places_on_air(testbed, world)
    h = np.ones(5) @ world.cascade(place)
    precoder = 0.3 * h.conj()[:, None] / np.linalg.norm(h)
    (outcome,) = outcomes(testbed, decided(("ue0",), precoder))
    expected = (0.3 * np.linalg.norm(h)) ** 2 / (10 ** (-94.0 / 10) / 1000)
    assert outcome.sinr_db == pytest.approx(10 * math.log10(expected), abs=1e-3)


def test_an_absent_user_hears_only_others(world: SiteChannels, rng: np.random.Generator) -> None:
    """ue1 is sent nothing: power is received, nothing of it is meant for it. A stranger's beam disturbs as any."""
    found = outcomes(started(world), decided(("ue0", "stranger", "ue2"), complex_normal(rng, 6, 3)))
    absent = found[1]
    assert absent.user == "ue1"
    assert absent.rate_bps_hz == 0.0
    assert not absent.ack
    assert absent.received_power_dbm > -100
    assert found[0].rate_bps_hz > 0 < found[2].rate_bps_hz


def test_without_any_decision_nobody_gets_anything(world: SiteChannels) -> None:
    found = outcomes(Testbed(world, TestbedSettings()), None)
    assert [outcome.user for outcome in found] == ["ue0", "ue1", "ue2"]
    for outcome in found:
        assert outcome.rate_bps_hz == 0.0
        assert not outcome.ack
        assert outcome.received_power_dbm < -250


def test_outcomes_before_the_first_decision_settle_no_promise(world: SiteChannels) -> None:
    """Decision 0 may have been late: what happened without it must not be taken for what it brought."""
    testbed = Testbed(world, TestbedSettings())
    found = {(outcome.decision_seq, outcome.decision_epoch) for outcome in outcomes(testbed, None)}
    assert found == {(NO_DECISION, None)}
    assert wire.decode(wire.encode(outcomes(testbed, None)[0])).t_ns == 99


def test_silence_is_silent(world: SiteChannels) -> None:
    testbed = started(world)
    outcomes(testbed, decided(("ue0",), np.ones((6, 1), np.complex128)))
    for nobody in (np.zeros((6, 0)), np.zeros((0, 0))):
        for outcome in outcomes(testbed, decided((), nobody.astype(np.complex128), seq=8)):
            assert outcome.rate_bps_hz == 0.0
            assert outcome.decision_seq == 8


def test_a_late_decision_leaves_the_last_one_on_air(world: SiteChannels, rng: np.random.Generator) -> None:
    testbed = started(world)
    decision = decided(("ue0", "ue1", "ue2"), complex_normal(rng, 6, 3), unit_phases(rng, 4), seq=3)
    outcomes(testbed, decision)
    (frame, *_) = frames(testbed.measure(0), "effective")
    np.testing.assert_array_equal(frame.ris_patterns[0], decision.theta)
    places = places_on_air(testbed, world)
    for outcome, place in zip(outcomes(testbed, None), places, strict=True):
        h = np.append(1.0, decision.theta) @ world.cascade(place)
        all_w = float(np.sum(np.abs(h @ decision.precoder) ** 2))
        assert outcome.received_power_dbm == pytest.approx(10 * math.log10(all_w) + 30, abs=1e-3)
        assert outcome.decision_seq == 3


def test_a_decision_without_theta_leaves_the_ris_alone(world: SiteChannels, rng: np.random.Generator) -> None:
    testbed, theta = started(world), unit_phases(rng, 4)
    outcomes(testbed, decided(("ue0",), complex_normal(rng, 6, 1), theta))
    outcomes(testbed, decided(("ue0",), complex_normal(rng, 6, 1)))
    (frame, *_) = frames(testbed.measure(0), "effective")
    np.testing.assert_array_equal(frame.ris_patterns[0], theta.astype(np.complex64))


@pytest.mark.parametrize(("antennas", "elements"), [(5, 4), (7, 0), (6, 3), (6, 5), (6, 1)])
def test_a_decision_for_another_site_is_refused(antennas: int, elements: int, world: SiteChannels) -> None:
    """Nothing of it is used: neither power nor phases are half of what was decided."""
    testbed = started(world)
    wrong = decided(("ue0",), np.ones((antennas, 1), np.complex128), np.ones(elements, np.complex128))
    with pytest.raises(InputRefused) as refusal:
        outcomes(testbed, wrong)
    assert f"for {antennas} antennas and {elements} RIS elements" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert {outcome.rate_bps_hz for outcome in outcomes(testbed, None)} == {0.0}


def test_users_walk_on_by_one_period(world: SiteChannels) -> None:
    testbed = started(world, speed_m_s=2.0, period_s=20e-3, lead_s=5e-3)
    before = frames(testbed.measure(0), "effective")
    list(testbed.transmit(None, 0))
    after = frames(testbed.measure(0), "effective")
    assert testbed.block == 2
    for one, other in zip(before, after, strict=True):
        assert np.linalg.norm(np.subtract(other.position_m, one.position_m)) == pytest.approx(0.04)
        assert np.linalg.norm(other.velocity_m_s) == pytest.approx(2.0)


def test_a_panel_of_few_states_takes_the_nearest(rng: np.random.Generator) -> None:
    """And loses what its states lose, in truth and in what is told of the pattern."""
    bundle = free_space_bundle()
    assert bundle.site.ris is not None
    told = [{"gain_db": -4.8, "phase_deg": 0.0}, {"gain_db": -5.2, "phase_deg": 92.0}]
    ris = Ris.model_validate({**bundle.site.ris.model_dump(), "states": told})
    coarse = SiteChannels(replace(bundle, site=bundle.site.model_copy(update={"ris": ris})))
    testbed, theta = started(coarse), np.exp(1j * np.radians([10.0, 80.0, 170.0, -60.0]))
    outcomes(testbed, decided(("ue0",), complex_normal(rng, 6, 1), theta))
    first, second = 10 ** (-4.8 / 20), 10 ** (-5.2 / 20) * np.exp(1j * np.radians(92.0))
    np.testing.assert_allclose(testbed.links()[1], [first, second, second, first], rtol=1e-6)
    pattern = frames(testbed.measure(0), "effective")[0].ris_patterns[0]
    np.testing.assert_array_equal(pattern, testbed.links()[1].astype(np.complex64))


def test_sites_without_states_are_hashed_as_before_there_were_any() -> None:
    site = free_space_bundle().site
    assert site.ris is not None
    assert "states" not in site.model_dump_json()
    with pytest.raises(ValueError, match="cannot be steered"):
        Ris.model_validate({**site.ris.model_dump(), "states": [{"phase_deg": 0.0}]})
