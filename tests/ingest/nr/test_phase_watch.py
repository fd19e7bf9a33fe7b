"""Clocks that run apart are told from channels that fade: rates and jumps found, and none in hours of fading."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest

from ingest.nr.phase_watch import PhaseWatch
from tests.ingest.nr.fading import Fading

STILL = Fading(k_db=10.0, doppler_hz=5.0, tones=8)
WALKS = Fading(doppler_hz=10.0, tones=8)


@dataclass(frozen=True)
class Sender:
    """Who is looked at every period_s. symbols: times in a slot that are looked at too."""

    name: str
    fading: Fading = WALKS
    period_s: float = 0.02
    stands_still: bool = False
    symbols: tuple[float, ...] = ()


@dataclass(frozen=True)
class Radio:
    """Antennas turn by rates_hz, from begin_s to end_s, and step by jump_rad at jump_s."""

    rates_hz: tuple[float, ...] = (0.0, 0.0)
    begin_s: float = 0.0
    end_s: float = np.inf
    jump_s: float = np.inf
    jump_rad: tuple[float, ...] = (0.0,)

    def turns(self, time_s: float) -> npt.NDArray[np.complex128]:
        elapsed_s = min(max(time_s, self.begin_s), self.end_s) - self.begin_s
        step = np.array(self.jump_rad) * (time_s >= self.jump_s)
        return np.asarray(np.exp(1j * (2 * np.pi * np.array(self.rates_hz) * elapsed_s + step)))


@dataclass
class Heard:
    """When the watch told of drift and what at last."""

    watch: PhaseWatch
    first_s: float | None = None
    last_s: float | None = None


def listen(senders: list[Sender], duration_s: float, seed: int, radio: Radio | None = None) -> Heard:
    rng, heard = np.random.default_rng(seed), Heard(PhaseWatch())
    looks = []
    for sender in senders:
        times_s = np.arange(rng.uniform(0, sender.period_s), duration_s, sender.period_s)
        channels = sender.fading.channel(times_s, rng)
        looks += [(time_s, sender, channel) for time_s, channel in zip(times_s.tolist(), channels, strict=True)]
    for time_s, sender, channel in sorted(looks, key=lambda one: one[0]):
        turned = channel if radio is None else channel * radio.turns(time_s)[:, None]
        heard.watch.look(sender.name, sender.name, time_s, turned, stands_still=sender.stands_still)
        if sender.symbols:
            assert radio is not None
            received = np.stack([channel * radio.turns(time_s + late)[:, None] for late in sender.symbols], axis=1)
            heard.watch.symbols(sender.name, time_s, np.array(sender.symbols), received)
        if heard.watch.rates_hz is not None:
            heard.first_s = time_s if heard.first_s is None else heard.first_s
            heard.last_s = time_s
    return heard


SSB = Sender("cell", STILL, stands_still=True)
USERS = [Sender(f"ue{n}", replace(WALKS, doppler_hz=doppler), 0.01) for n, doppler in enumerate((3.0, 10.0, 30.0))]


@pytest.mark.parametrize(
    "senders",
    [
        [SSB],
        [replace(SSB, fading=replace(STILL, k_db=0.0, lopsided=0.9, doppler_hz=3.0))],
        [replace(SSB, fading=replace(WALKS, doppler_hz=1.0))],
        [replace(SSB, fading=replace(WALKS, doppler_hz=0.1))],
        [replace(SSB, fading=replace(WALKS, doppler_hz=0.02))],
        USERS,
        [replace(one, fading=replace(one.fading, paths=2, lopsided=0.9, doppler_hz=10.0)) for one in USERS],
    ],
    ids=["static", "scatterers that one antenna sees better", "1 Hz", "0.1 Hz", "0.02 Hz", "users", "two paths each"],
)
def test_fading_is_no_drift(senders: list[Sender]) -> None:
    """Ten minutes of each."""
    for seed in range(5):
        heard = listen(senders, 120.0, seed)
        assert heard.first_s is None
        assert heard.watch.jumps == []
        assert heard.watch.transmitters == len(senders)


@pytest.mark.parametrize(
    ("senders", "rate_hz", "within_s"),
    [
        ([SSB], 7.0, 5.0),
        ([SSB], -0.3, 40.0),
        ([replace(SSB, fading=replace(WALKS, doppler_hz=3.0))], 10.0, 30.0),
        ([SSB, *USERS], 7.0, 5.0),
        ([SSB, *USERS], 40.0, 5.0),
        ([Sender("phone", replace(STILL, doppler_hz=0.2), 0.002)], 20.0, 20.0),
    ],
)
def test_a_steady_rotation_is_found(senders: list[Sender], rate_hz: float, within_s: float) -> None:
    """40 Hz is more than looks 20 ms apart can tell; those of the users, 10 ms apart, do."""
    for seed in range(3):
        heard = listen(senders, within_s, seed, Radio((0.0, rate_hz)))
        assert heard.watch.rates_hz is not None
        assert heard.watch.rates_hz == pytest.approx([0.0, rate_hz], abs=0.05 * abs(rate_hz))


def test_pairs_of_antennas_on_two_clocks() -> None:
    antennas = replace(SSB, fading=replace(STILL, antennas=4))
    heard = listen([antennas], 5.0, 1, Radio((0.0, 0.0, 3.0, 3.0)))
    assert heard.watch.rates_hz == pytest.approx([0.0, 0.0, 3.0, 3.0], abs=0.1)


def test_symbols_of_a_slot_tell_how_often_phases_went_round() -> None:
    """Looks 10 ms apart leave multiples of 100 Hz open; at 700 Hz nothing seems to turn at all."""
    phone = Sender("phone", replace(STILL, doppler_hz=0.2), 0.01, True, (0.0, 0.18e-3, 0.32e-3))
    for rate_hz in (430.0, 700.0):
        heard = listen([phone], 10.0, 2, Radio((0.0, rate_hz)))
        assert heard.watch.rates_hz is not None
        assert heard.watch.rates_hz[1] == pytest.approx(rate_hz, abs=1.0)


def test_one_user_alone_does_not_accuse_the_radio_unless_very_steady() -> None:
    user = replace(USERS[1], fading=replace(WALKS, doppler_hz=10.0))
    assert listen([user], 20.0, 1, Radio((0.0, 5.0))).first_s is None


def test_who_stands_still_contradicts_users() -> None:
    """A user who turns steadily before a radio that an SSB shows to stand still."""
    turning = Sender("phone", replace(STILL, doppler_hz=0.2), 0.002)
    rng, watch = np.random.default_rng(4), PhaseWatch()
    times_s = np.arange(0.0, 20.0, 0.004)
    phone, cell = turning.fading.channel(times_s, rng), STILL.channel(times_s[::5], rng)
    for n, time_s in enumerate(times_s.tolist()):
        watch.look("phone", "phone", time_s, phone[n] * Radio((0.0, 40.0)).turns(time_s)[:, None])
        if n % 5 == 0:
            watch.look("cell", "cell", time_s, cell[n // 5], stands_still=True)
        assert watch.rates_hz is None


def test_drift_that_begins_and_ends() -> None:
    heard = listen([SSB], 110.0, 3, Radio((0.0, 2.0), begin_s=40.0, end_s=60.0))
    assert heard.first_s is not None
    assert heard.last_s is not None
    assert 40.0 < heard.first_s < 60.0
    assert heard.last_s < 100.0
    assert heard.watch.rates_hz is None


def test_a_jump_of_the_radio() -> None:
    quiet = [Sender(name, replace(STILL, k_db=15.0, doppler_hz=1.0), 0.005) for name in ("a", "b")]
    heard = listen([*quiet, USERS[2]], 10.0, 1, Radio(jump_s=5.0, jump_rad=(0.0, 1.0)))
    (jump,) = heard.watch.jumps
    assert jump.time_s == pytest.approx(5.0, abs=0.02)
    assert jump.step_rad == pytest.approx([0.0, 1.0], abs=0.3)
    assert heard.first_s is None


def test_a_jump_that_one_of_two_users_shows_is_not_the_radios() -> None:
    rng, watch = np.random.default_rng(5), PhaseWatch()
    times_s = np.arange(0.0, 10.0, 0.005)
    calm = replace(STILL, k_db=15.0, doppler_hz=1.0)
    one, other = calm.channel(times_s, rng), calm.channel(times_s, rng)
    radio = Radio(jump_s=5.0, jump_rad=(0.0, 1.0))
    for n, time_s in enumerate(times_s.tolist()):
        watch.look("one", "one", time_s, one[n] * radio.turns(time_s)[:, None])
        watch.look("other", "other", time_s, other[n])
    assert watch.jumps == []


@pytest.mark.parametrize("spoilt", [0.0, np.nan, 1e-30, 1e18, 1e30])
def test_dead_and_absurd_antennas_raise_nothing(spoilt: float) -> None:
    rng, watch = np.random.default_rng(6), PhaseWatch()
    times_s = np.arange(0.0, 5.0, 0.02)
    for time_s, channel in zip(times_s.tolist(), STILL.channel(times_s, rng).astype(np.complex64), strict=True):
        channel[1] = spoilt if spoilt != spoilt or not spoilt else channel[1] * spoilt
        watch.look("cell", "cell", time_s, channel, stands_still=True)
    assert watch.rates_hz is None


def test_looks_at_odd_times_are_left_out() -> None:
    """Too soon, backwards, after a long pause, of another number of antennas: nothing is compared, nothing raised."""
    rng, watch = np.random.default_rng(7), PhaseWatch()
    for time_s in [0.0, 0.001, 0.02, 0.01, 100.0, 100.02, 100.021, 100.1, *np.cumsum(rng.exponential(0.03, 500))]:
        watch.look("u", "u", float(time_s), STILL.channel(np.array([time_s]), rng)[0])
    watch.look("u", "u", 200.0, replace(STILL, antennas=3).channel(np.zeros(1), rng)[0])
    watch.symbols("v", 0.0, np.arange(2.0), np.zeros((2, 2, 8)))
    assert watch.rates_hz is None
    watch.restart()
    assert watch.transmitters == 0
