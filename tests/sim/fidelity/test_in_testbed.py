"""A testbed obeys the knobs of its world: mismatch, oscillators, amplifiers, converters and errors of positions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ingest.errors import UsageRefused
from ingest.messages import ChannelFrame, IqBlock
from sim.channels import SiteChannels
from sim.fidelity.amplifier import am_am
from sim.fidelity.in_testbed import OnAir
from sim.fidelity.knobs import AmplifierSettings
from sim.fidelity.settings import FidelitySettings
from sim.iq_testbed import IqTestbed
from sim.testbed import Testbed, TestbedSettings
from tests.sim.hand_made import free_space_bundle
from tests.sim.test_testbed import decided

pytestmark = pytest.mark.kernel

Complex = npt.NDArray[np.complex128]

QUIET = TestbedSettings(position_sigma_m=0.0, bs_noise_dbm=-300.0, speed_m_s=0.0)


def world(**knobs: Any) -> SiteChannels:
    bundle = free_space_bundle()
    return SiteChannels(replace(bundle, settings=FidelitySettings.model_validate(knobs)))


def test_mismatch_is_a_fixed_factor_of_each_antenna_in_every_channel() -> None:
    knob = {"mismatch_gain_db": 1.0, "mismatch_phase_deg": 20.0, "seed": 5}
    plain, unlike = world(), world(hardware=knob)
    place, tones_hz, theta = plain.bundle.positions_m[3] + [0.1, 0.0, 0.0], np.array([-1e6, 2e6]), np.ones(4)
    factor = unlike.direct(place) / plain.direct(place)
    assert np.std(np.abs(factor)) > 0.02
    assert np.abs(factor - world(hardware=knob).direct(place) / plain.direct(place)).max() < 1e-12
    np.testing.assert_allclose(unlike.cascade(place), plain.cascade(place) * factor, rtol=1e-9)
    np.testing.assert_allclose(unlike.bs_ris, plain.bs_ris * factor, rtol=1e-9)
    before, after = (each.effective_cfr(place, theta, tones_hz) for each in (plain, unlike))
    np.testing.assert_allclose(after, before * factor[:, None], rtol=1e-9)
    directions = np.eye(3)
    np.testing.assert_allclose(unlike.array_response(directions), plain.array_response(directions) * factor, rtol=1e-9)


@pytest.mark.parametrize(("linewidth_hz", "expected"), [(5.0, np.exp(-2 * np.pi * 5.0 * 7e-3)), (0.0, 1.0)])
def test_oscillators_of_their_own_drift_between_measurement_and_transmission(
    linewidth_hz: float, expected: float
) -> None:
    """Of a beam towards a channel measured t before, exp(-2 pi B t) (1 - 1/N) + 1/N of the power is left."""
    testbed = Testbed(world(hardware={"linewidth_hz": linewidth_hz, "own_oscillators": linewidth_hz > 0}), QUIET)
    lost = []
    for block in range(300):
        frame = next(one for one in testbed.measure(block) if isinstance(one, ChannelFrame) and one.domain != "cascade")
        h = np.asarray(frame.cfr, np.complex128)[0, :, 32]
        beam = np.zeros((6, 1), np.complex128)
        beam[:, 0] = h.conj() / np.linalg.norm(h)
        outcomes = list(testbed.transmit(decided(("ue0",), beam, block=block), block))
        power = 10 ** (outcomes[0].received_power_dbm / 10 - 3)
        lost.append(power / np.linalg.norm(h) ** 2)
    assert np.mean(lost) == pytest.approx(expected + (1 - expected) / 6, abs=0.03 if linewidth_hz else 1e-4)


def test_what_an_amplifier_leaves_of_a_beam_is_what_its_curve_says() -> None:
    """One user, equal antennas: the gain is E |x| A(|x|) / E |x|^2 of a Rayleigh amplitude, the rest is distortion."""
    amplifier = AmplifierSettings(backoff_db=3.0, smoothness=2.0)
    precoder = np.full((4, 1), 0.5 + 0j)
    found = OnAir.of(precoder, amplifier)
    level = np.linspace(1e-4, 6.0, 60_001)
    density, saturation = 2 * level * np.exp(-(level**2)), 10 ** (3.0 / 20)
    out = saturation * am_am(level / saturation, 2.0)
    gain, power = (float(np.trapezoid(each * density, level)) for each in (level * out, out**2))
    np.testing.assert_allclose(found.precoder / precoder, gain, rtol=0.03)
    channel = np.array([[1.0], [0.0], [0.0], [0.0]], np.complex128)
    assert found.spilt_power(channel)[0] == pytest.approx(0.25 * (power - gain**2), rel=0.15)
    assert OnAir.of(precoder, None).spilt_power(channel)[0] == 0.0


def test_saturation_costs_what_users_report() -> None:
    """Without noise, one user's SINR is that of gain over distortion, whatever its channel."""
    beam = np.full((6, 1), 0.4 + 0j)
    testbeds = [Testbed(world(hardware=knob), QUIET) for knob in ({}, {"amplifier": {"backoff_db": 0.0}})]
    clean, hard = (next(iter(each.transmit(decided(("ue0",), beam), 0))) for each in testbeds)
    assert hard.sinr_db < 20.0 < clean.sinr_db
    assert hard.received_power_dbm < clean.received_power_dbm


@pytest.mark.parametrize(
    ("knob", "told"),
    [({"adc_bits": 4}, "adc_bits acts on samples"), ({"linewidth_hz": 50.0}, "turns all channels alike")],
)
def test_what_frames_do_not_show_is_refused_there_and_shows_in_iq(knob: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageRefused, match=told) as refusal:
        Testbed(world(hardware=knob), QUIET)
    assert "\n" not in str(refusal.value)
    settings = TestbedSettings(users=1)
    bursts = [IqTestbed(world(hardware=each), settings).measure(0)[-1] for each in ({}, knob)]
    assert all(isinstance(one, IqBlock) for one in bursts)
    plain, changed = (np.asarray(one.samples) for one in bursts if isinstance(one, IqBlock))
    assert plain.shape == changed.shape
    if "adc_bits" in knob:
        assert all(len(np.unique(row.real)) <= 2**4 for row in changed)
        assert len(np.unique(plain[0].real)) > 1000
    else:
        turned = changed / plain
        np.testing.assert_allclose(np.abs(turned), 1.0, rtol=1e-4)
        np.testing.assert_allclose(turned, turned[:1].repeat(6, axis=0), rtol=1e-3)
        assert np.abs(np.angle(turned[0])).max() > 0.01


def test_users_err_about_their_places_as_the_world_s_knob_says() -> None:
    def errors_m(**position: Any) -> npt.NDArray[np.float64]:
        testbed, found = Testbed(world(position=position), replace(QUIET, position_sigma_m=0.02)), []
        for block in range(40):
            told = {one.user: one.position_m for one in testbed.measure(block) if isinstance(one, ChannelFrame)}
            truth = [walk.position_m for walk in testbed._walks]
            found.append([np.subtract(told[f"ue{user}"], truth[user]) for user in range(3)])
            list(testbed.transmit(None, block))
        return np.array(found)

    apart = errors_m(sigma_m=2.0, correlation_s=1e-3)
    assert np.sqrt(np.mean(apart**2)) == pytest.approx(2.0, rel=0.1)
    together = errors_m(sigma_m=2.0, correlation_s=1e-3, common=True)
    np.testing.assert_allclose(together, together[:, :1].repeat(3, axis=1), atol=1e-9)
    assert np.abs(errors_m(sigma_m=2.0, correlation_s=1e-3, seed=2) - apart).max() > 0.1
    assert np.abs(errors_m()).max() < 0.2
