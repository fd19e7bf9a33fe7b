"""Looks become knowledge and knowledge becomes beliefs: by dense algebra for one look, statistically for many."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from controller.covariance import Complex
from controller.error_statistics import ErrorStatistics, LearningRule
from controller.looks import Look, looks_of
from controller.mailbox import Inputs
from controller.prior import TwinPrior, ZeroPrior
from controller.tracking import Knowledge, Tracker, UserTrack, belief_of, newest_tracks
from controller.zones import WHOLE_SITE, GridZones, WholeSite
from sim.channels import SiteChannels
from tests.random_channels import complex_normal, dense, frame, random_covariance, unit_phases
from tests.sim.hand_made import free_space_bundle

pytestmark = pytest.mark.kernel

ROWS, ANTENNAS = 3, 2
MS = 10**6
TRACKER = Tracker(WholeSite(), LearningRule(), max_zones=4)


def look(
    cfr: Complex, *, pattern: Complex | None = None, noise_power: float = 1e-2, block: int = 0, **changes: Any
) -> Look:
    """A look at the carrier: cfr [R, N] whole, or [1, N] under a RIS state; a block is 10 ms."""
    sent = frame(
        cfr,
        pattern=pattern,
        cascade=pattern is None,
        noise_power=noise_power,
        block=block,
        **{"t_ns": block * 10 * MS, **changes},
    )
    (found,) = looks_of(Inputs(channels=(sent,)), {}, [])
    return found


def nothing_known(entry_power: float = 1.0) -> Knowledge:
    return Knowledge(ZeroPrior(ROWS, ANTENNAS, entry_power))


def only_track(knowledge: Knowledge) -> UserTrack:
    (track,) = knowledge.users.values()
    return track


# ---- one look ---------------------------------------------------------------------------------------------------


def test_a_new_zone_is_sized_by_its_first_look(rng: np.random.Generator) -> None:
    """Whole: direct and cascaded rows each as strong as seen, less the noise."""
    channel = complex_normal(rng, ROWS, ANTENNAS) * np.array([[10.0], [0.1], [0.1]])
    seen = look(channel, noise_power=1e-4)
    knowledge = TRACKER.observe(nothing_known(), seen)
    before = only_track(knowledge).covariance
    assert set(knowledge.zones) == {WHOLE_SITE}
    for rows in (slice(0, 1), slice(1, None)):
        power = np.mean(np.abs(seen.measured[rows]) ** 2) - 1e-4
        np.testing.assert_allclose(before.variances[rows], power, rtol=1e-6)


def test_a_new_zone_seen_in_part_is_sized_as_a_whole(rng: np.random.Generator) -> None:
    theta = unit_phases(rng, ROWS - 1)
    seen = look(5.0 * complex_normal(rng, 1, ANTENNAS), pattern=theta)
    before = only_track(TRACKER.observe(nothing_known(), seen)).covariance
    power = np.mean(np.abs(seen.measured) ** 2) - 1e-2
    np.testing.assert_allclose(before.variances.sum(axis=0), power, rtol=1e-5)


def test_a_look_below_the_noise_sizes_a_zone_by_the_noise(rng: np.random.Generator) -> None:
    seen = look(1e-6 * complex_normal(rng, ROWS, ANTENNAS), noise_power=1.0)
    before = only_track(TRACKER.observe(nothing_known(), seen)).covariance
    np.testing.assert_allclose(before.variances, 0.1)


def in_phase(measured: Complex, reference: Complex) -> Complex:
    """`measured` as if its oscillator agreed with `reference`."""
    turn = np.vdot(reference, measured)
    return np.asarray(measured * (turn.conjugate() / abs(turn)))


def learnt_zone(rng: np.random.Generator, horizon: float) -> ErrorStatistics:
    """A zone of which much is known."""
    covariance = random_covariance(rng, ROWS, ANTENNAS, 2)
    mean = complex_normal(rng, ROWS, ANTENNAS)
    return ErrorStatistics(mean, covariance, covariance, taught=1e9, judged=1e9, horizon=horizon)


NOT_LEARNING = Tracker(WholeSite(), LearningRule(prior_weight=1e15, memory=1e12), max_zones=4)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("horizon", [0.0, 0.5, 7.0])
def test_a_belief_is_the_dense_posterior_carried_on(whole: bool, horizon: float, rng: np.random.Generator) -> None:
    """Error e(t + tau) = a e(t) + sqrt(1 - a^2) w, stationary: mean a g, covariance C - a^2 (C - posterior)."""
    zone, noise_power = learnt_zone(rng, horizon), 0.3
    knowledge = replace(nothing_known(), zones={WHOLE_SITE: zone})
    theta = unit_phases(rng, ROWS - 1).astype(np.complex64).astype(np.complex128)
    pattern = np.append(1.0, theta)
    seen_by = np.eye(ROWS * ANTENNAS) if whole else np.kron(pattern[None], np.eye(ANTENNAS))
    forecast = np.zeros(len(seen_by), np.complex128)
    for block in range(3):
        channel = zone.mean + complex_normal(rng, ROWS, ANTENNAS)
        expected = seen_by @ zone.mean.ravel() + forecast
        measured = in_phase(seen_by @ channel.ravel(), expected).reshape(-1, ANTENNAS)
        seen = look(measured, pattern=None if whole else theta, noise_power=noise_power, block=block)
        knowledge = NOT_LEARNING.observe(knowledge, seen)
        forecast = zone.coherence * seen_by @ only_track(knowledge).gain.ravel()
    prior, innovation = dense(zone.covariance), seen.measured.ravel() - seen_by @ zone.mean.ravel()
    gain = prior @ seen_by.conj().T
    gain = gain @ np.linalg.inv(seen_by @ gain + noise_power * np.eye(len(seen_by)))
    coherence = np.sqrt(1 - np.exp(-knowledge.zones[WHOLE_SITE].horizon))
    for lead_ms in (0, 10, 25):
        a = coherence ** (lead_ms / 10)
        belief = belief_of(knowledge, only_track(knowledge), seen.t_ns, lead_ms * 1e-3)
        np.testing.assert_allclose(belief.mean.ravel(), zone.mean.ravel() + a * gain @ innovation, atol=1e-5)
        left = prior - a**2 * gain @ seen_by @ prior
        for probe in (pattern, np.append(1.0, unit_phases(rng, ROWS - 1))):
            through = np.kron(probe[None], np.eye(ANTENNAS))
            mean, spread = belief.effective(probe)
            np.testing.assert_allclose(mean, probe @ belief.mean, atol=1e-12)
            np.testing.assert_allclose(spread, through @ left @ through.conj().T, atol=1e-5)


def test_before_there_were_two_looks_one_interval_is_assumed(rng: np.random.Generator) -> None:
    zone = learnt_zone(rng, 1.0)
    seen = look(complex_normal(rng, ROWS, ANTENNAS))
    knowledge = NOT_LEARNING.observe(replace(nothing_known(), zones={WHOLE_SITE: zone}), seen)
    near, far = (belief_of(knowledge, only_track(knowledge), seen.t_ns, lead_s) for lead_s in (0.0, 1.0))
    np.testing.assert_array_equal(near.mean, far.mean)
    np.testing.assert_allclose(near.mean, zone.mean + zone.coherence * only_track(knowledge).gain, atol=1e-6)


def test_the_oscillators_phase_changes_nothing(rng: np.random.Generator) -> None:
    """Every look turned by a phase of its own: the same is learnt and believed of everything but that phase."""
    theta = unit_phases(rng, ROWS - 1)
    plain, turned = nothing_known(), nothing_known()
    first = look(complex_normal(rng, ROWS, ANTENNAS))
    plain, turned = TRACKER.observe(plain, first), TRACKER.observe(turned, first)
    for block in range(1, 30):
        whole = block % 5 == 0
        measured = complex_normal(rng, ROWS if whole else 1, ANTENNAS)
        pattern = None if whole else theta
        plain = TRACKER.observe(plain, look(measured, pattern=pattern, block=block))
        measured = measured * np.exp(2j * np.pi * rng.random())
        turned = TRACKER.observe(turned, look(measured, pattern=pattern, block=block))
    one, other = plain.zones[WHOLE_SITE], turned.zones[WHOLE_SITE]
    np.testing.assert_allclose(dense(one.covariance), dense(other.covariance), atol=1e-5)
    assert one.horizon == pytest.approx(other.horizon, abs=1e-5)
    assert one.nis == pytest.approx(other.nis, abs=1e-5)
    for key, track in plain.users.items():
        np.testing.assert_allclose(track.gain, turned.users[key].gain, atol=1e-5)


def test_the_twin_is_asked_for_where_the_user_will_be(rng: np.random.Generator) -> None:
    channels = SiteChannels(free_space_bundle())
    knowledge, place, velocity = Knowledge(TwinPrior(channels, 0.5)), (12.0, -5.0, 1.5), (3.0, 0.0, 0.0)
    seen = look(channels.cascade(place), noise_power=1e-16, position_m=place, velocity_m_s=velocity)
    knowledge = TRACKER.observe(knowledge, seen)
    track, statistics = only_track(knowledge), knowledge.zones[WHOLE_SITE]
    # 20 ms since the look and 30 ms lead: 15 cm further on.
    belief = belief_of(knowledge, track, seen.t_ns + 20 * MS, 30e-3)
    expected = channels.cascade((12.15, -5.0, 1.5)) + statistics.mean + statistics.coherence * track.gain
    np.testing.assert_allclose(belief.mean, expected, atol=1e-12)
    assert np.abs(channels.cascade((12.15, -5.0, 1.5)) - channels.cascade(place)).max() > 1e-5


def test_what_is_observed_is_a_value(rng: np.random.Generator) -> None:
    """Knowledge is replaced, never changed: a step that is thrown away leaves no trace."""
    before = TRACKER.observe(nothing_known(), look(complex_normal(rng, ROWS, ANTENNAS)))
    users, zones = dict(before.users), dict(before.zones)
    mean, variances = before.zones[WHOLE_SITE].mean.copy(), before.zones[WHOLE_SITE].covariance.variances.copy()
    for block in range(1, 5):
        TRACKER.observe(before, look(complex_normal(rng, ROWS, ANTENNAS), block=block, user=f"ue{block}"))
    assert dict(before.users) == users
    assert dict(before.zones) == zones
    np.testing.assert_array_equal(before.zones[WHOLE_SITE].mean, mean)
    np.testing.assert_array_equal(before.zones[WHOLE_SITE].covariance.variances, variances)


# ---- many looks -------------------------------------------------------------------------------------------------


def followed(
    knowledge: Knowledge, looks: int, rng: np.random.Generator, *, coherence: float, whole_every: int
) -> tuple[Knowledge, list[float], list[float]]:
    """Looks at an error that is AR(1) of this coherence; the normalised errors of beliefs one block ahead, at the
    pattern that the next look uses, and their squared error over that of no belief at all."""
    covariance = random_covariance(rng, ROWS, ANTENNAS, 1)
    root = np.linalg.cholesky(dense(covariance))

    def news() -> Complex:
        return (root @ complex_normal(rng, ROWS * ANTENNAS)).reshape(ROWS, ANTENNAS)

    tracker = Tracker(WholeSite(), LearningRule(rank=4), 4)
    error, normalised, relative = news(), [], []
    theta = unit_phases(rng, ROWS - 1).astype(np.complex64).astype(np.complex128)
    pattern = np.append(1.0, theta)
    through = np.kron(pattern[None], np.eye(ANTENNAS))
    steady = complex_normal(rng, ROWS, ANTENNAS)  # what the zone's mean has to find; it fixes the phase as well
    for block in range(looks):
        error = coherence * error + np.sqrt(1 - coherence**2) * news()
        channel = steady + error
        if block > looks // 2:
            (track,) = newest_tracks(knowledge, block * 10 * MS, 1.0, 1).values()
            mean, spread = belief_of(knowledge, track, block * 10 * MS, 0.0).effective(pattern)
            wrong = in_phase(pattern @ channel, mean) - mean
            normalised.append(float(np.vdot(wrong, np.linalg.solve(spread, wrong)).real) / ANTENNAS)
            prior = float(np.trace(through @ dense(covariance) @ through.conj().T).real)
            relative.append(float(np.sum(np.abs(wrong) ** 2)) / prior)
        whole = whole_every > 0 and block % whole_every == 0
        truth = channel if whole else pattern[None] @ channel
        noisy = truth + 0.1 * complex_normal(rng, *truth.shape)
        knowledge = tracker.observe(knowledge, look(noisy, pattern=None if whole else theta, block=block))
    return knowledge, normalised, relative


@pytest.mark.parametrize("coherence", [0.6, 0.95])
@pytest.mark.parametrize("whole_every", [0, 1, 4])
def test_beliefs_err_as_much_as_they_say(coherence: float, whole_every: int, rng: np.random.Generator) -> None:
    """After learning: normalised error near 1, and the better the slower the channel changes."""
    knowledge, normalised, relative = followed(
        nothing_known(2.0), 1200, rng, coherence=coherence, whole_every=whole_every
    )
    assert knowledge.zones[WHOLE_SITE].validity != "drifted"
    assert 0.5 < np.mean(normalised) < 2.0
    assert np.mean(relative) < 1.5 * (1 - coherence**2) + 0.1


@pytest.mark.parametrize(("first", "every"), [(0, 1), (1, 2), (1, 4), (3, 4), (2, 5)])
def test_coherence_is_learnt_in_any_rhythm(first: int, every: int, rng: np.random.Generator) -> None:
    """Looks at errors that last, or that do not: which blocks they fall into makes no difference."""
    for lasting in (True, False):
        knowledge, error = nothing_known(), complex_normal(rng, ROWS, ANTENNAS)
        for count in range(120):
            error = error if lasting else complex_normal(rng, ROWS, ANTENNAS)
            block = first + count * every
            noisy = error + 0.1 * complex_normal(rng, ROWS, ANTENNAS)
            knowledge = TRACKER.observe(knowledge, look(noisy, block=block))
        loss = 1 - knowledge.zones[WHOLE_SITE].coherence ** 2
        assert (loss < 0.05) if lasting else (loss > 0.3)


def test_a_whole_look_ages_in_the_usual_interval(rng: np.random.Generator) -> None:
    """Looks every 10 ms, every tenth whole: after a whole one coherence still counts per 10 ms, not per 100 ms."""
    knowledge = nothing_known()
    theta = unit_phases(rng, ROWS - 1)
    for block in range(31):
        if block % 10 == 0:
            knowledge = TRACKER.observe(knowledge, look(complex_normal(rng, ROWS, ANTENNAS), block=block))
        if block < 30:
            knowledge = TRACKER.observe(knowledge, look(complex_normal(rng, 1, ANTENNAS), pattern=theta, block=block))
    (track,) = newest_tracks(knowledge, 300 * MS, 1.0, 8).values()
    assert track.look.whole
    assert track.interval_s == pytest.approx(0.1)
    statistics = knowledge.zones[WHOLE_SITE]
    belief = belief_of(knowledge, track, 300 * MS, 20e-3)
    np.testing.assert_allclose(belief.mean, statistics.mean + statistics.coherence**2 * track.gain, atol=1e-12)


def test_a_much_surprised_young_zone_widens(rng: np.random.Generator) -> None:
    """The first look was at a user that the twin knows well; the next shows a thousand times that error."""
    knowledge = TRACKER.observe(nothing_known(), look(1e-2 * complex_normal(rng, ROWS, ANTENNAS), noise_power=1e-9))
    narrow = np.mean(knowledge.zones[WHOLE_SITE].covariance.variances)
    strong = look(complex_normal(rng, ROWS, ANTENNAS), noise_power=1e-9, user="ue1", block=1)
    knowledge = TRACKER.observe(knowledge, strong)
    assert narrow < 1e-3
    assert np.mean(knowledge.users["ue1", True].covariance.variances) > 0.2


def test_looks_out_of_order_do_no_harm(rng: np.random.Generator) -> None:
    knowledge = nothing_known()
    for block in (0, 5, 3, 3, 9, 1):
        knowledge = TRACKER.observe(knowledge, look(complex_normal(rng, ROWS, ANTENNAS), block=block))
        belief = belief_of(knowledge, only_track(knowledge), 50 * MS, 0.0)
        mean, spread = belief.effective(np.ones(ROWS, np.complex128))
        assert np.isfinite(mean).all()
        assert np.linalg.eigvalsh(spread).min() > 0


# ---- zones and users --------------------------------------------------------------------------------------------


def test_zones_are_learnt_apart_and_bounded(rng: np.random.Generator) -> None:
    tracker, knowledge = Tracker(GridZones(10.0), LearningRule(), max_zones=3), nothing_known()
    for cell in range(6):
        seen = look(complex_normal(rng, ROWS, ANTENNAS), user=f"ue{cell}", position_m=(10.0 * cell + 5, 0.0, 1.5))
        knowledge = tracker.observe(knowledge, seen)
    assert set(knowledge.zones) == {"0:0", "1:0", "2:0", WHOLE_SITE}
    assert [knowledge.users[f"ue{cell}", True].zone for cell in range(6)] == ["0:0", "1:0", "2:0", *3 * [WHOLE_SITE]]


def test_in_another_zone_a_user_starts_anew(rng: np.random.Generator) -> None:
    tracker, knowledge = Tracker(GridZones(10.0), LearningRule(), max_zones=9), nothing_known()
    for block in range(4):
        knowledge = tracker.observe(
            knowledge, look(complex_normal(rng, ROWS, ANTENNAS), block=block, position_m=(5.0, 5.0, 1.5))
        )
    assert only_track(knowledge).interval_s is not None
    knowledge = tracker.observe(
        knowledge, look(complex_normal(rng, ROWS, ANTENNAS), block=4, position_m=(15.0, 5.0, 1.5))
    )
    assert only_track(knowledge).zone == "1:0"
    assert only_track(knowledge).interval_s is None


def test_the_residual_is_error_over_channel(rng: np.random.Generator) -> None:
    """For a first look at a site without a twin all of the channel is error."""
    assert only_track(TRACKER.observe(nothing_known(), look(complex_normal(rng, ROWS, ANTENNAS)))).residual_db == 0.0


def many_users(count: int, rng: np.random.Generator) -> Knowledge:
    knowledge = nothing_known()
    for k in range(count):
        seen = look(complex_normal(rng, ROWS, ANTENNAS), user=f"ue{k}", block=k)
        knowledge = TRACKER.observe(knowledge, seen)
    return knowledge


def test_users_that_vanish_are_forgotten(rng: np.random.Generator) -> None:
    """Each track holds whole channels and covariances: the newest are kept, however many come and go."""
    knowledge = many_users(400, rng)
    assert len(knowledge.users) == 128
    assert {user for user, _ in knowledge.users} == {f"ue{k}" for k in range(400 - 128, 400)}


def test_a_user_that_is_heard_again_is_kept(rng: np.random.Generator) -> None:
    knowledge = many_users(100, rng)
    knowledge = TRACKER.observe(knowledge, look(complex_normal(rng, ROWS, ANTENNAS), user="ue0", block=100))
    for k in range(101, 220):
        seen = look(complex_normal(rng, ROWS, ANTENNAS), user=f"ue{k}", block=k)
        knowledge = TRACKER.observe(knowledge, seen)
    assert ("ue0", True) in knowledge.users
    assert ("ue1", True) not in knowledge.users


def test_designs_are_made_from_the_newest_fresh_tracks(rng: np.random.Generator) -> None:
    knowledge = many_users(12, rng)
    tracks = newest_tracks(knowledge, 110 * MS, 0.08, 64)
    assert list(tracks) == sorted(f"ue{k}" for k in range(3, 12))
    assert list(newest_tracks(knowledge, 110 * MS, 0.08, 3)) == ["ue10", "ue11", "ue9"]
    assert newest_tracks(knowledge, 10**12, 0.08, 64) == {}


def test_of_two_looks_in_a_block_the_partial_one_counts(rng: np.random.Generator) -> None:
    knowledge, theta = nothing_known(), unit_phases(rng, ROWS - 1)
    knowledge = TRACKER.observe(knowledge, look(complex_normal(rng, ROWS, ANTENNAS), block=3))
    knowledge = TRACKER.observe(knowledge, look(complex_normal(rng, 1, ANTENNAS), pattern=theta, block=3))
    assert not newest_tracks(knowledge, 30 * MS, 1.0, 8)["ue0"].look.whole
    knowledge = TRACKER.observe(knowledge, look(complex_normal(rng, ROWS, ANTENNAS), block=4))
    assert newest_tracks(knowledge, 40 * MS, 1.0, 8)["ue0"].look.whole
