"""Looks: every measurement of a user's channel in one form, whether a frame or a decoded codeword."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from controller.belief import Observation
from controller.codec import CsiDecoder
from controller.covariance import Complex
from controller.mailbox import Inputs
from ingest.messages import ChannelFrame, FeedbackFrame, Vector


@dataclass(frozen=True)
class Look:
    """A measurement of one user at the carrier.

    measured [P, B]: what `observation` saw; where `whole`, the channel itself [R, N], entry by entry.
    """

    user: str
    block: int
    t_ns: int
    position_m: Vector | None
    velocity_m_s: Vector | None
    observation: Observation
    measured: Complex
    whole: bool

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and antennas of the channel that was looked at."""
        if self.whole:
            return int(self.measured.shape[0]), int(self.measured.shape[1])
        beams = self.observation.beams
        antennas = self.measured.shape[1] if beams is None else beams.shape[0]
        return int(self.observation.patterns.shape[1]), int(antennas)

    def of(self, channel: Complex) -> Complex:
        """What this look would have measured of `channel` [R, N], without noise."""
        return channel if self.whole else self.observation.of(channel)

    def position_after(self, lead_s: float) -> Vector | None:
        """Where the user will be `lead_s` later, by what it said of its position and velocity."""
        if self.position_m is None or self.velocity_m_s is None:
            return self.position_m
        x, y, z = (here + lead_s * speed for here, speed in zip(self.position_m, self.velocity_m_s, strict=True))
        return (x, y, z)


def looks_of(inputs: Inputs, decoders: Mapping[str, CsiDecoder], notes: list[str]) -> list[Look]:
    """All looks of a step, whole channels first since they teach the most, then by user. Problems go to `notes`."""
    looks = [_of_frame(frame) for frame in inputs.channels]
    for frame in inputs.feedback:
        if frame.codeword.size:
            look = _of_codeword(frame, decoders, notes)
            if look is not None:
                looks.append(look)
    return sorted(looks, key=lambda look: (not look.whole, look.user))


def _of_frame(frame: ChannelFrame) -> Look:
    """A channel frame at its tone nearest the carrier."""
    tone = int(np.argmin(np.abs(frame.tones_hz)))
    direct = np.ones((frame.ris_patterns.shape[0], 1))
    patterns = np.concatenate([direct, frame.ris_patterns], axis=1).astype(np.complex128)
    beams = frame.beams.astype(np.complex128) if frame.beams.shape[0] else None
    return Look(
        user=frame.user,
        block=frame.block,
        t_ns=frame.t_ns,
        position_m=frame.position_m,
        velocity_m_s=frame.velocity_m_s,
        observation=Observation(patterns, beams, frame.noise_power),
        measured=frame.cfr[:, :, tone].astype(np.complex128),
        whole=frame.domain == "cascade" or (frame.ris_patterns.shape == (1, 0) and beams is None),
    )


def _of_codeword(frame: FeedbackFrame, decoders: Mapping[str, CsiDecoder], notes: list[str]) -> Look | None:
    """A decoded codeword at its middle tone, with the codec's own error as measurement noise."""
    decoder = decoders.get(frame.codec)
    if decoder is None:
        notes.append(f"{frame.user}: codec {frame.codec} is not configured")
        return None
    try:
        channel = decoder.decode(frame.codeword, frame.gain)
    except ValueError as error:
        notes.append(f"{frame.user}: {error}"[:200])
        return None
    at_carrier = channel[:, channel.shape[1] // 2]
    noise_power = float(np.mean(np.abs(at_carrier) ** 2)) * 10 ** (decoder.manifest.nmse_db / 10)
    pattern = np.concatenate([np.ones(1), frame.ris_pattern])[None].astype(np.complex128)
    return Look(
        user=frame.user,
        block=frame.block,
        t_ns=frame.t_ns,
        position_m=frame.position_m,
        velocity_m_s=frame.velocity_m_s,
        observation=Observation(pattern, None, max(noise_power, 1e-300)),
        measured=at_carrier[None],
        whole=frame.ris_pattern.size == 0,
    )
