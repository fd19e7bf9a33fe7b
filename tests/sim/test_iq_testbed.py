"""The testbed as a radio hears it: what our receiver makes of its IQ against the world that it was made from."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from time import monotonic, sleep

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from scipy.optimize import minimize_scalar

from ingest import wire
from ingest.errors import UsageRefused
from ingest.iq_queue import IqQueue
from ingest.messages import ChannelFrame, FeedbackFrame, IqBlock, Message
from ingest.nr.receiver import NrReceiver
from ingest.nr.references import ReferenceSettings
from sim.bundle import SiteBundle
from sim.channels import SiteChannels
from sim.iq_radio import RATE_HZ, SCS_HZ, SIGNAL, FewTones, RadioSettings, plan_band
from sim.iq_testbed import IqTestbed
from sim.paths import merged
from sim.testbed import TestbedSettings
from tests.random_channels import unit_phases
from tests.sim.hand_made import free_space_bundle, random_directions, random_table
from tests.sim.test_testbed import decided

Complex = npt.NDArray[np.complex128]

SETTINGS = TestbedSettings(users=4, period_s=20e-3, lead_s=17e-3, speed_m_s=0.35, position_sigma_m=0.0)
ECHOES = 6


def echoing_bundle() -> SiteBundle:
    """The small site with six echoes of each direct path, up to half a microsecond late, and its RIS."""
    rng = np.random.default_rng(4)
    bundle = free_space_bundle()
    links = len(bundle.positions_m)
    late_m = np.repeat(bundle.bs_user.length_m, ECHOES) + rng.uniform(5.0, 150.0, links * ECHOES)
    strength = np.repeat(np.abs(bundle.bs_user.gain), ECHOES) * rng.uniform(0.1, 0.7, links * ECHOES)
    echoes = replace(
        random_table(rng, [ECHOES] * links),
        gain=strength * np.exp(2j * np.pi * rng.random(links * ECHOES)),
        length_m=late_m,
        reach_m=0.3 * late_m,
        departure=random_directions(rng, links * ECHOES),
        mirror=np.zeros((links * ECHOES, 3, 3)),
    )
    return replace(bundle, bs_user=merged(bundle.bs_user, echoes))


@pytest.fixture(scope="module")
def world() -> SiteChannels:
    return SiteChannels(echoing_bundle())


def receiver_of(testbed: IqTestbed, *, live: bool = False) -> NrReceiver:
    references = ReferenceSettings(testbed.band.carrier, ((SIGNAL, testbed.band.signal),), pci=testbed.band.pci)
    calibration = testbed.chains.calibration(testbed.band.center_hz)
    return NrReceiver(references, live=live, calibrations=(calibration,))


def burst_of(messages: list[Message]) -> IqBlock:
    (burst,) = (one for one in messages if isinstance(one, IqBlock))
    return burst


def played(testbed: IqTestbed, blocks: int) -> list[list[Message]]:
    """What came in block by block; the RIS is set anew in every fifth."""
    rng, found = np.random.default_rng(5), []
    for block in range(blocks):
        found.append(testbed.measure(block))
        theta = unit_phases(rng, 4)
        decision = decided((), np.zeros((6, 0), np.complex128), theta, seq=block, block=block)
        list(testbed.transmit(decision if block % 5 == 0 else None, block))
    return found


def on_wire(blocks: list[list[Message]]) -> list[list[bytes]]:
    return [[bytes(part) for part in wire.encode(message)] for messages in blocks for message in messages]


def test_a_run_is_a_function_of_its_seed(world: SiteChannels) -> None:
    first, again = (on_wire(played(IqTestbed(world, SETTINGS), 6)) for _ in range(2))
    assert first == again
    assert first != on_wire(played(IqTestbed(world, replace(SETTINGS, seed=2)), 6))


def test_every_message_is_valid_on_the_wire(world: SiteChannels) -> None:
    for messages in played(IqTestbed(world, SETTINGS), 3):
        assert [type(message) for message in messages] == [FeedbackFrame] * 4 + [IqBlock]
        for message in messages:
            wire.decode(wire.encode(message))


def without_oscillator(measured: Complex, truth: Complex, tones_hz: npt.NDArray[np.float64]) -> float:
    """Mean squared error of measured [N, S] once the phase and delay that fit best are taken out."""

    def error(late_s: float) -> float:
        moved = truth * np.exp(-2j * np.pi * tones_hz * late_s)
        product = np.vdot(moved, measured)
        return float(np.mean(np.abs(measured - moved * (product / abs(product))) ** 2))

    grid_s = np.linspace(-400e-9, 400e-9, 161)
    best = int(np.argmin([error(late_s) for late_s in grid_s]))
    bounds = grid_s[max(best - 1, 0)], grid_s[min(best + 1, 160)]
    return float(minimize_scalar(error, bounds=bounds, method="bounded", options={"xatol": 1e-12}).fun)


def test_what_is_received_is_the_world_as_surely_as_it_says(world: SiteChannels) -> None:
    """All antennas, blocks and users at once, while carriers, timing and the radio's clock drift and the RIS changes.

    Up to the phase and delay of each user's own oscillator, which no design depends on.
    """
    testbed = IqTestbed(world, SETTINGS)
    receiver, rng = receiver_of(testbed), np.random.default_rng(5)
    names = [testbed.user_name(index) for index in range(4)]
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in names}
    for block in range(70):
        messages = testbed.measure(block)
        sent_dbm = {one.user: one.sent_dbm for one in messages if isinstance(one, FeedbackFrame)}
        for frame in receiver.process(burst_of(messages)):
            if frame.user in names and block >= 10:  # by then delays are known
                place, sent = testbed._walks[names.index(frame.user)].position_m, sent_dbm[frame.user]
                assert sent is not None
                truth = world.effective_cfr(place, testbed._theta, frame.tones_hz) * 10 ** (sent / 20)
                power = float(np.mean(np.abs(truth) ** 2))
                error = without_oscillator(frame.cfr[0].astype(np.complex128), truth, frame.tones_hz)
                found[frame.user].append((error, frame.noise_power, power))
        theta = unit_phases(rng, 4)
        decision = decided((), np.zeros((6, 0), np.complex128), theta, seq=block, block=block)
        list(testbed.transmit(decision if block % 5 == 0 else None, block))
    assert receiver.references is not None
    assert receiver.references.refused == {}
    for name in names:
        assert len(found[name]) == 60
        error, told, power = np.mean(found[name], axis=0)
        assert 10 * np.log10(error / power) < -30
        assert 10 * np.log10(error / told) == pytest.approx(0.0, abs=2.0), name


def test_bursts_are_no_losses_and_lost_bursts_are(world: SiteChannels) -> None:
    testbed = IqTestbed(world, SETTINGS)
    bursts = [burst_of(messages) for messages in played(testbed, 8)]
    for one, other in pairwise(bursts):
        assert one.first_sample + one.samples.shape[1] + other.skipped == other.first_sample
    assert bursts[0].skipped == bursts[0].first_sample
    for lost, missing in (((), 0), ((3,), bursts[3].skipped + bursts[3].samples.shape[1])):
        receiver, queue = receiver_of(testbed), IqQueue(sheds=False)
        for number, burst in enumerate(bursts):
            if number not in lost:
                list(receiver.process(burst))
                queue.put(burst)
        assert receiver.gaps == queue.missing_samples == missing


def test_a_live_receiver_finds_the_cell_in_bursts(world: SiteChannels) -> None:
    """There searches go on beside the stream, of pieces that are longer than a burst."""
    testbed = IqTestbed(world, SETTINGS)
    receiver, heard = receiver_of(testbed, live=True), set[str]()
    until_s = monotonic() + 60
    while monotonic() < until_s and "ue.3" not in heard:
        heard |= {frame.user for frame in receiver.process(burst_of(testbed.measure(0)))}
        list(testbed.transmit(None, 0))
        sleep(5e-3)
    assert heard == {"pci500.ssb0", "ue.0", "ue.1", "ue.2", "ue.3"}
    assert receiver.gaps == 0


def test_the_cell_tells_how_the_radio_s_clock_drifts(world: SiteChannels) -> None:
    testbed = IqTestbed(world, replace(SETTINGS, users=1), RadioSettings(clock_ppm=0.4))
    receiver = receiver_of(testbed)
    for messages in played(testbed, 100):
        list(receiver.process(burst_of(messages)))
    (cell,) = receiver.cells
    assert cell.tracker is not None
    assert cell.tracker.drift_ppm == pytest.approx(0.4, abs=0.05)
    assert cell.tracker.cfo_hz == pytest.approx(-0.4e-6 * testbed.band.center_hz, abs=30)
    assert cell.mib is not None


def test_power_control_brings_users_to_the_same_level(world: SiteChannels) -> None:
    testbed = IqTestbed(world, SETTINGS)
    receiver, levels_dbm = receiver_of(testbed), []
    for messages in played(testbed, 15):
        frames = [frame for frame in receiver.process(burst_of(messages)) if frame.user.startswith(SIGNAL)]
        levels_dbm += [10 * np.log10(np.mean(np.abs(frame.cfr) ** 2)) for frame in frames]
    assert np.mean(levels_dbm) == pytest.approx(RadioSettings().wanted_dbm, abs=1.0)
    assert np.std(levels_dbm) < 1.5
    weak = IqTestbed(world, replace(SETTINGS, user_power_dbm=-30.0))
    sent = [one.sent_dbm for one in weak.measure(0) if isinstance(one, FeedbackFrame)]
    assert sent == [pytest.approx(-30 - 10 * np.log10(228))] * 4


def test_few_tones_tell_all(world: SiteChannels) -> None:
    testbed = IqTestbed(world, SETTINGS)
    assert len(testbed._tones.few_hz) < 40
    for index in range(4):
        place = testbed._walks[index].position_m
        truth = world.effective_cfr(place, testbed._theta, testbed.band.tones_hz)
        error = np.sum(np.abs(testbed.channel(index) - truth) ** 2) / np.sum(np.abs(truth) ** 2)
        assert 10 * np.log10(error) < -80


def test_few_tones_hold_for_any_delay() -> None:
    tones_hz = np.arange(-114, 114) * SCS_HZ
    few = FewTones(tones_hz, 3e-6)
    for late_s in np.linspace(0, 3e-6, 57):
        told = few.spread(np.exp(-2j * np.pi * few.few_hz * late_s)[None])[0]
        assert np.abs(told - np.exp(-2j * np.pi * tones_hz * late_s)).max() < 1e-3


def test_outcomes_are_scored_in_the_middle_of_the_carrier(world: SiteChannels, rng: np.random.Generator) -> None:
    testbed = IqTestbed(world, replace(SETTINGS, users=2))
    testbed.measure(0)
    list(testbed.transmit(None, 0))
    places = [walk.position_m + SETTINGS.lead_s * walk.velocity_m_s for walk in testbed._walks]
    precoder = 0.1 * (rng.normal(size=(6, 2)) + 1j * rng.normal(size=(6, 2)))
    outcomes = list(testbed.transmit(decided(("ue.0", "ue.2"), precoder), 0))
    sent, noise_w = precoder.astype(np.complex64), 10 ** (-94.0 / 10) / 1000
    for column, (outcome, place) in enumerate(zip(outcomes, places, strict=True)):
        rates = []
        for subcarrier in range(9 * 12, 10 * 12):
            tone_hz = np.array([(subcarrier - 19 * 6) * 30e3])
            received_w = np.abs(world.effective_cfr(place, np.ones(4), tone_hz)[:, 0] @ sent) ** 2
            rates.append(np.log2(1 + received_w[column] / (received_w[1 - column] + noise_w)))
        assert outcome.rate_bps_hz == pytest.approx(np.mean(rates), rel=1e-4)
        assert outcome.sinr_db == pytest.approx(10 * np.log10(2 ** np.mean(rates) - 1), abs=1e-3)


@pytest.mark.parametrize("carrier_hz", [0.7e9, 2.14e9, 3.438e9, 3.5e9, 3.50072e9, 6.5e9])
@pytest.mark.parametrize("users", [1, 4, 8])
def test_everything_lies_in_the_band(carrier_hz: float, users: int) -> None:
    band = plan_band(carrier_hz, users)
    assert band.carrier.prbs % 2 == 1
    assert band.carrier.prbs >= 15
    half_hz = band.carrier.prbs * 12 * SCS_HZ / 2
    for middle_hz, reach_hz in ((carrier_hz, half_hz), (band.ssb_hz, 120 * SCS_HZ)):
        assert abs(middle_hz - band.center_hz) + reach_hz <= RATE_HZ / 2
    assert len(set(band.ports)) == users
    assert np.abs(band.middle_tones_hz.mean()) <= SCS_HZ / 2
    assert np.isin(band.middle_tones_hz, band.tones_hz).all()


@pytest.mark.parametrize(("carrier_hz", "users"), [(28e9, 2), (3.5e9, 9), (3.5e9, 0)])
def test_what_cannot_be_sent_is_refused(carrier_hz: float, users: int) -> None:
    with pytest.raises(UsageRefused, match="simulated IQ"):
        plan_band(carrier_hz, users)


def test_blocks_that_are_no_frames_are_refused(world: SiteChannels) -> None:
    with pytest.raises(UsageRefused, match="10 ms or a multiple"):
        IqTestbed(world, replace(SETTINGS, period_s=5e-3))


def test_a_field_that_old_senders_lack_is_nothing_skipped(world: SiteChannels) -> None:
    topic, header, samples = wire.encode(burst_of(IqTestbed(world, SETTINGS).measure(0)))
    told = msgspec.json.decode(bytes(header))
    del told["skipped"]
    block = wire.decode([topic, msgspec.json.encode(told), samples])
    assert isinstance(block, IqBlock)
    assert block.skipped == 0


def test_reports_are_where_users_are(world: SiteChannels) -> None:
    testbed = IqTestbed(world, SETTINGS)
    for index, one in enumerate(testbed.measure(0)[:4]):
        assert isinstance(one, FeedbackFrame)
        assert not isinstance(one, ChannelFrame)
        assert one.user == testbed.user_name(index)
        np.testing.assert_allclose(np.array(one.position_m), testbed._walks[index].position_m)
