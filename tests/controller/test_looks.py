"""Every measurement becomes a look that says what it saw and how well; what cannot be used is noted, never raised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pytest

from controller.codec import CodecManifest
from controller.covariance import Complex
from controller.looks import Look, looks_of
from controller.mailbox import Inputs
from ingest.messages import ChannelFrame, FeedbackFrame, no_array
from tests.random_channels import complex_normal, frame, unit_phases

ANTENNAS, TONES = 3, 5


def manifest(nmse_db: float = -10.0) -> CodecManifest:
    return CodecManifest.model_validate(
        {
            "schema": "twinbeam.codec/1",
            "name": "linear",
            "sha256": "0" * 64,
            "codeword": 4,
            "antennas": ANTENNAS,
            "tones": TONES,
            "nmse_db": nmse_db,
            "data": "none",
            "commit": "none",
        }
    )


@dataclass
class TableDecoder:
    """A decoder whose channels are known: the outer product of a table and the codeword, times the gain."""

    table: Complex
    manifest: CodecManifest

    def decode(self, codeword: Any, gain: float) -> Complex:
        if codeword.shape != (4,):
            raise ValueError("codeword of another length")
        return np.asarray(gain * (self.table @ codeword).reshape(ANTENNAS, TONES))


def feedback(codeword: Any, *, user: str = "ue0", codec: str = "linear", **changes: Any) -> FeedbackFrame:
    message = FeedbackFrame(
        source="test",
        epoch=0,
        seq=0,
        t_ns=77,
        user=user,
        block=6,
        codec=codec,
        gain=2.0,
        position_m=(1.0, 2.0, 3.0),
        velocity_m_s=(0.5, 0.0, 0.0),
        codeword=np.asarray(codeword, np.float32),
        powers_dbm=no_array(0, dtype=np.float32),
        ris_pattern=no_array(0),
    )
    return msgspec.structs.replace(message, **changes)


def of_frames(*frames: ChannelFrame) -> list[Look]:
    return looks_of(Inputs(channels=frames), {}, [])


def test_an_effective_frame_is_a_look_through_its_pattern(rng: np.random.Generator) -> None:
    theta, cfr = unit_phases(rng, 4), complex_normal(rng, 1, ANTENNAS)
    sent = frame(
        cfr, pattern=theta, noise_power=0.02, t_ns=5, block=9, position_m=(1.0, 0.0, 0.0), velocity_m_s=(2.0, 0.0, 0.0)
    )
    (look,) = of_frames(sent)
    np.testing.assert_allclose(look.observation.patterns, np.append(1.0, theta)[None], atol=1e-7)
    np.testing.assert_allclose(look.measured, cfr, atol=1e-6)
    assert look.observation.beams is None
    assert look.observation.noise_power == 0.02
    assert (look.user, look.block, look.t_ns, look.whole) == ("ue0", 9, 5, False)
    assert (look.position_m, look.velocity_m_s) == ((1.0, 0.0, 0.0), (2.0, 0.0, 0.0))
    assert look.shape == (5, ANTENNAS)
    assert look.measured.dtype == look.observation.patterns.dtype == np.complex128
    channel = complex_normal(rng, 5, ANTENNAS)
    np.testing.assert_allclose(look.of(channel), np.append(1.0, theta)[None] @ channel, atol=1e-6)


def test_a_cascade_frame_shows_the_channel_itself(rng: np.random.Generator) -> None:
    cfr = complex_normal(rng, 5, ANTENNAS)
    (look,) = of_frames(frame(cfr, cascade=True))
    assert look.whole
    assert look.shape == (5, ANTENNAS)
    np.testing.assert_allclose(look.measured, cfr, atol=1e-6)
    channel = complex_normal(rng, 5, ANTENNAS)
    assert look.of(channel) is channel


def test_a_site_without_a_ris_is_seen_whole(rng: np.random.Generator) -> None:
    (look,) = of_frames(frame(complex_normal(rng, 1, ANTENNAS)))
    assert look.whole
    assert look.shape == (1, ANTENNAS)
    beams = complex_normal(rng, 6, ANTENNAS)
    (through,) = of_frames(frame(complex_normal(rng, 1, ANTENNAS), beams=beams))
    assert not through.whole
    assert through.shape == (1, 6)
    channel = complex_normal(rng, 1, 6)
    np.testing.assert_allclose(through.of(channel), channel @ beams, atol=1e-6)


def test_several_patterns_make_one_look(rng: np.random.Generator) -> None:
    patterns = unit_phases(rng, 8).reshape(2, 4)
    sent = msgspec.structs.replace(
        frame(complex_normal(rng, 2, ANTENNAS), pattern=unit_phases(rng, 4)), ris_patterns=patterns.astype(np.complex64)
    )
    (look,) = of_frames(sent)
    channel = complex_normal(rng, 5, ANTENNAS)
    expected = np.stack([channel[0] + patterns[p] @ channel[1:] for p in range(2)])
    np.testing.assert_allclose(look.of(channel), expected, atol=1e-6)
    assert look.shape == (5, ANTENNAS)


def test_the_tone_nearest_the_carrier_counts(rng: np.random.Generator) -> None:
    tones_hz = np.array([-3e6, 1e5, 2e6])
    cfr = complex_normal(rng, 1, ANTENNAS, 3).astype(np.complex64)
    sent = msgspec.structs.replace(frame(complex_normal(rng, 1, ANTENNAS)), cfr=cfr, tones_hz=tones_hz)
    (look,) = of_frames(sent)
    np.testing.assert_array_equal(look.measured, cfr[:, :, 1])


def test_a_codeword_is_a_look_as_good_as_its_codec(rng: np.random.Generator) -> None:
    decoder = TableDecoder(complex_normal(rng, ANTENNAS * TONES, 4), manifest(-10.0))
    codeword, notes = rng.normal(size=4).astype(np.float32), list[str]()
    (look,) = looks_of(Inputs(feedback=(feedback(codeword),)), {"linear": decoder}, notes)
    channel = 2.0 * (decoder.table @ codeword).reshape(ANTENNAS, TONES)[:, 2]
    np.testing.assert_allclose(look.measured, channel[None])
    assert look.observation.noise_power == pytest.approx(0.1 * np.mean(np.abs(channel) ** 2))
    assert look.whole
    assert (look.block, look.t_ns, look.position_m) == (6, 77, (1.0, 2.0, 3.0))
    assert notes == []


def test_a_codeword_under_a_pattern_is_a_partial_look(rng: np.random.Generator) -> None:
    decoder, theta = TableDecoder(complex_normal(rng, ANTENNAS * TONES, 4), manifest()), unit_phases(rng, 4)
    sent = feedback(np.ones(4), ris_pattern=theta.astype(np.complex64))
    (look,) = looks_of(Inputs(feedback=(sent,)), {"linear": decoder}, [])
    assert not look.whole
    assert look.shape == (5, ANTENNAS)
    np.testing.assert_allclose(look.observation.patterns, np.append(1.0, theta)[None], atol=1e-7)


def test_a_silent_codeword_still_has_noise() -> None:
    decoder = TableDecoder(np.zeros((ANTENNAS * TONES, 4), np.complex128), manifest())
    (look,) = looks_of(Inputs(feedback=(feedback(np.ones(4)),)), {"linear": decoder}, [])
    assert look.observation.noise_power > 0


@pytest.mark.parametrize(
    ("sent", "note"),
    [
        (feedback(np.ones(4), codec="other"), "ue0: codec other is not configured"),
        (feedback(np.ones(3)), "ue0: codeword of another length"),
    ],
)
def test_feedback_that_cannot_be_decoded_is_noted(sent: FeedbackFrame, note: str) -> None:
    decoder, notes = TableDecoder(np.ones((ANTENNAS * TONES, 4), np.complex128), manifest()), list[str]()
    assert looks_of(Inputs(feedback=(sent,)), {"linear": decoder}, notes) == []
    assert notes == [note]


def test_notes_fit_into_a_decision() -> None:
    decoder, notes = TableDecoder(np.ones((1, 1), np.complex128), manifest()), list[str]()
    sent = feedback(np.ones(4), user="u" * 64, codec="c" * 64)
    assert looks_of(Inputs(feedback=(sent,)), {"linear": decoder}, notes) == []
    assert all(len(note) <= 200 for note in notes)


def test_reports_of_powers_alone_are_no_looks() -> None:
    notes: list[str] = []
    assert looks_of(Inputs(feedback=(feedback(np.zeros(0)),)), {}, notes) == []
    assert notes == []


def test_whole_looks_come_first_then_by_user(rng: np.random.Generator) -> None:
    theta = unit_phases(rng, 4)
    partial = [frame(complex_normal(rng, 1, ANTENNAS), user=user, pattern=theta) for user in ("b", "a")]
    whole = [frame(complex_normal(rng, 5, ANTENNAS), user=user, cascade=True) for user in ("d", "c")]
    looks = of_frames(*partial, *whole)
    assert [(look.whole, look.user) for look in looks] == [(True, "c"), (True, "d"), (False, "a"), (False, "b")]


def test_positions_ahead_follow_the_velocity(rng: np.random.Generator) -> None:
    cfr = complex_normal(rng, 1, ANTENNAS)
    (moving,) = of_frames(frame(cfr, position_m=(1.0, 2.0, 3.0), velocity_m_s=(2.0, -1.0, 0.0)))
    assert moving.position_after(0.5) == (2.0, 1.5, 3.0)
    (standing,) = of_frames(frame(cfr, position_m=(1.0, 2.0, 3.0)))
    assert standing.position_after(0.5) == (1.0, 2.0, 3.0)
    (nowhere,) = of_frames(frame(cfr, velocity_m_s=(2.0, -1.0, 0.0)))
    assert nowhere.position_after(0.5) is None
