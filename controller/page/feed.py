"""What the live page shows: the loop leaves references behind, the page's thread makes pictures of them.

Everything left behind is frozen, so that no lock is held while the page computes.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from controller.audit import OutageAudit
from controller.mailbox import MAX_USERS
from controller.page.site_plan import NO_PLAN
from controller.pipeline import State
from controller.prior import TwinPrior
from ingest.messages import BlockDecision, ChannelFrame
from sim.channels import SiteChannels

HISTORY = 600
_OUTAGE_WINDOW = 200
_ANGLES_DEG = np.arange(-90.0, 90.5, 1.0)
_FLOOR_DB = -200.0


@dataclass(frozen=True)
class Moment:
    """One block in the page's history."""

    block: int
    latency_ms: float | None
    audited: int
    promised: float
    realised: int


@dataclass
class PageFeed:
    """The last decision, the last frames and a history.

    `saw` and `decided` are called by the loop, `snapshot` by the page. deadline_ms: of the configured block. twin: how
    a twin that is traced live stands (`controller.live_twin`), None for any other. plan: what `site_plan` made.
    """

    title: str
    deadline_ms: float
    channels: SiteChannels | None
    decision: BlockDecision | None = None
    decisions: int = 0
    missed: int = 0
    frames: dict[str, ChannelFrame] = field(default_factory=dict)
    history: deque[Moment] = field(default_factory=lambda: deque(maxlen=HISTORY))
    zones: dict[str, str] = field(default_factory=dict)
    plan: bytes = NO_PLAN
    twin: dict[str, Any] | None = None
    _made: tuple[int, bytes] = (-1, b"")

    def saw(self, frame: ChannelFrame) -> None:
        """The newest frame of its user."""
        if frame.domain == "effective":
            self.frames.pop(frame.user, None)
            self.frames[frame.user] = frame
            if len(self.frames) > MAX_USERS:
                del self.frames[next(iter(self.frames))]

    def decided(self, decision: BlockDecision, latency_s: float | None, state: State, *, missed: bool) -> None:
        """The newest decision and what the audit says by now. latency_s: None for a block without frames."""
        self.decision = decision
        self.decisions += 1
        latency_ms = None if latency_s is None else round(latency_s * 1e3, 3)
        self.missed += missed
        audit: OutageAudit = state.audit
        total = audit.total()
        self.history.append(Moment(decision.block, latency_ms, total.blocks, total.promised, total.realised))
        if state.knowledge is not None:
            self.zones = {name: track.zone for (name, _), track in state.knowledge.users.items()}

    def snapshot(self) -> bytes:
        """Everything that the page draws, as JSON; made once per decision, however many pages are open."""
        decisions, made = self._made
        if decisions != self.decisions:
            decisions, made = self._made = self.decisions, self._picture()
        return made

    def _picture(self) -> bytes:
        decision = self.decision
        shown: dict[str, Any] = {
            "title": self.title,
            "deadline_ms": self.deadline_ms,
            "decisions": self.decisions,
            "missed": self.missed,
            "history": self._history(),
        }
        if self.twin is not None:
            shown["twin"] = self.twin
        if decision is not None:
            shown |= {
                "block": decision.block,
                "rung": decision.rung,
                "power_w": decision.power,
                "notes": decision.notes,
                "users": self._users(decision),
                "ris": self._ris(decision),
                "beam": self._beam(decision),
                "cir": self._impulse_responses(decision),
            }
        return msgspec.json.encode(shown)

    def _history(self) -> dict[str, list[Any]]:
        """Latency and rung per block, and outage over the last `_OUTAGE_WINDOW` blocks."""
        moments = list(self.history)
        promised, realised = [], []
        for index, now in enumerate(moments):
            then = moments[max(0, index - _OUTAGE_WINDOW)]
            audited = now.audited - then.audited
            promised.append((now.promised - then.promised) / audited if audited else None)
            realised.append((now.realised - then.realised) / audited if audited else None)
        return {
            "block": [moment.block for moment in moments],
            "latency_ms": [moment.latency_ms for moment in moments],
            "promised": promised,
            "realised": realised,
        }

    def _users(self, decision: BlockDecision) -> list[dict[str, Any]]:
        return [
            {
                "name": user,
                "zone": self.zones.get(user, ""),
                "position_m": self._position_m(user),
                "validity": decision.validity[k],
                "sinr_db": round(float(decision.sinr_db[k]), 2),
                "promised_outage": round(float(decision.promised_outage[k]), 4),
                "residual_db": round(float(decision.residual_db[k]), 2),
            }
            for k, user in enumerate(decision.users)
        ]

    def _position_m(self, user: str) -> list[float] | None:
        """Where a user believes it is."""
        frame = self.frames.get(user)
        return None if frame is None or frame.position_m is None else [round(one, 2) for one in frame.position_m]

    def _ris(self, decision: BlockDecision) -> dict[str, Any] | None:
        if decision.theta.size == 0:
            return None
        panel = self.channels.bundle.site.ris if self.channels is not None else None
        rows = panel.rows if panel is not None else 1
        phases = np.mod(np.angle(decision.theta), 2 * np.pi)
        return {
            "rows": rows,
            "columns": decision.theta.size // rows,
            "phase_rad": np.round(phases, 3).tolist(),
        }

    def _beam(self, decision: BlockDecision) -> dict[str, Any]:
        """Radiated power of each user's beam over azimuth, relative to one antenna fed with the same power."""
        antennas = decision.precoder.shape[0]
        response = self._responses(antennas)
        users = []
        for k, user in enumerate(decision.users):
            column = decision.precoder[:, k]
            power = float(np.sum(np.abs(column) ** 2))
            gain = np.abs(response @ column) ** 2 / power if power > 0 else np.zeros(len(response))
            users.append({"name": user, "gain_db": _db(gain)})
        return {"angle_deg": _ANGLES_DEG.tolist(), "users": users}

    def _responses(self, antennas: int) -> npt.NDArray[np.complex128]:
        """Array response over azimuth from boresight; without a site, of a half-wavelength line."""
        angles = np.radians(_ANGLES_DEG)
        if self.channels is not None and self.channels.antennas == antennas:
            boresight, left, _ = self.channels.bundle.site.bs.rotation().T
            directions = np.cos(angles)[:, None] * boresight + np.sin(angles)[:, None] * left
            return self.channels.array_response(directions)
        return np.asarray(np.exp(1j * np.pi * np.sin(angles)[:, None] * np.arange(antennas)))

    def _impulse_responses(self, decision: BlockDecision) -> list[dict[str, Any]]:
        """Power-delay profile of each user, measured and as the twin has it, over the mean of the antennas."""
        shown = []
        for user in decision.users:
            frame = self.frames.get(user)
            if frame is None or not _evenly_spaced(frame.tones_hz):
                continue
            measured = _delay_profile(frame.cfr[0])
            one: dict[str, Any] = {
                "name": user,
                "tap_ns": _tap_ns(frame.tones_hz),
                "measured_db": _db(measured),
                "noise_db": float(10 * np.log10(frame.noise_power / frame.tones_hz.size)),
            }
            twin = self._twin(frame)
            if twin is not None:
                one["twin_db"] = _db(_delay_profile(twin))
            shown.append(one)
        return shown

    def _twin(self, frame: ChannelFrame) -> npt.NDArray[np.complex128] | None:
        """What the twin expects where `frame` was measured. Shape [N, S]."""
        if self.channels is None or frame.position_m is None:
            return None
        if frame.ris_patterns.shape[1] != self.channels.elements:
            return None
        return self.channels.effective_cfr(
            frame.position_m, frame.ris_patterns[0].astype(np.complex128), np.asarray(frame.tones_hz, np.float64)
        )


def page_channels(prior: object) -> SiteChannels | None:
    """The site's channels, where the pipeline has a twin."""
    return prior.channels if isinstance(prior, TwinPrior) else None


def _delay_profile(cfr: npt.NDArray[np.complexfloating]) -> npt.NDArray[np.float64]:
    """Power over delay of a channel [N, S] on evenly spaced tones, mean over antennas. Shape [S]."""
    taps = np.fft.ifft(np.fft.ifftshift(cfr, axes=-1), axis=-1)
    return np.asarray(np.mean(np.abs(taps) ** 2, axis=0))


def _evenly_spaced(tones_hz: npt.NDArray[np.floating]) -> bool:
    """Whether a delay profile can be made of a channel on these tones."""
    steps = np.diff(tones_hz)
    return bool(steps.size and steps[0] > 0 and np.allclose(steps, steps[0], rtol=1e-6))


def _tap_ns(tones_hz: npt.NDArray[np.floating]) -> list[float]:
    spacing_hz = float(np.median(np.diff(tones_hz)))
    return [round(float(tap * 1e9 / (spacing_hz * tones_hz.size)), 3) for tap in range(tones_hz.size)]


def _db(power: npt.NDArray[np.floating]) -> list[float]:
    shown: list[float] = np.round(10 * np.log10(np.maximum(power, 10 ** (_FLOOR_DB / 10))), 2).tolist()
    return shown
