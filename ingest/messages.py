"""The messages that travel between radio, controller and testbed: typed, frozen, arrays as NumPy.

Shapes use one alphabet everywhere: A receive chains of raw IQ, T samples or taps, N transmit-array antennas, M RIS
elements, K users, S subcarriers ("tones"), P RIS patterns sounded, B antenna beams observed. Channels are rows:
`y_k = (h_k + g_k diag(theta) H_br) F x + noise`.

Every message carries `source, epoch, seq, t_ns`: who sent it, which run of that sender, its running number within
the run, and when it was stamped at the edge (monotonic nanoseconds).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np
import numpy.typing as npt

ComplexArray = npt.NDArray[np.complexfloating]
FloatArray = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.integer]

MAX_NAME = 64
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME, pattern=r"^[A-Za-z0-9_.:+-]+$")]
Note = Annotated[str, msgspec.Meta(max_length=200)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
FullScale = Annotated[float, msgspec.Meta(ge=1, le=1 << 24)]
Vector = tuple[float, float, float]

MAX_DIMENSION = 1 << 26


@dataclass(frozen=True)
class ArraySpec:
    """How one array of a message looks on the wire: allowed dtypes and a letter for each dimension.

    The same letter stands for the same length throughout one message. scaled: a complex array that may also travel as
    `<i2` pairs, real part first, in one dimension more; the message's `full_scale` says what counts 1.0.
    """

    name: str
    dtypes: tuple[str, ...]
    dims: tuple[str, ...]
    scaled: bool = False


class Message(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What every message has. `TOPIC` and `ARRAYS` are its wire form."""

    TOPIC: ClassVar[str] = ""
    ARRAYS: ClassVar[tuple[ArraySpec, ...]] = ()

    source: Name
    epoch: Count
    seq: Count
    t_ns: Count

    def problem(self) -> str | None:
        """What contradicts itself in this message beyond types and shapes; None when nothing does."""
        return None


class IqBlock(Message, frozen=True, kw_only=True, eq=False):
    """Consecutive baseband samples of A coherent receive chains.

    samples [A, T] complex64. center_hz is the tuned frequency, first_sample the running number of samples[:, 0].
    skipped: samples right before it that the radio left out on purpose, as in bursts; they are not missing.
    full_scale: where it is set, samples travel as 16-bit integers, this count standing for 1.0; here they are complex
    all the same.
    """

    TOPIC: ClassVar[str] = "iq"
    ARRAYS: ClassVar[tuple[ArraySpec, ...]] = (ArraySpec("samples", ("<c8",), ("A", "T"), scaled=True),)

    rate_hz: Positive
    center_hz: Annotated[float, msgspec.Meta(ge=0)]
    first_sample: Count
    skipped: Count = 0
    full_scale: FullScale | None = None
    samples: ComplexArray

    def problem(self) -> str | None:
        return "no samples" if self.samples.size == 0 else None


class ChannelFrame(Message, frozen=True, kw_only=True, eq=False):
    """A measured channel of one user, with how sure the measurement is.

    cfr [P, B, S]: channel at P RIS patterns (or P = M+1 cascade rows), B beams, S tones.
    domain "effective": row p was seen under `ris_patterns[p]` ([P, M], M = 0 where there is no RIS).
    domain "cascade": row 0 is the direct channel, row m the path over RIS element m; ris_patterns is [P, 0].
    beams [N, B]: receive combiner columns; [0, B] says that the B outputs are the antennas themselves.
    tones_hz [S]: tone offsets from carrier_hz. cir [B, T]: taps of row 0, spaced tap_s; T = 0 where not computed.
    noise_power: variance of the error of one entry of cfr, in the units of |cfr|^2. block: the coherence block
    it was measured in. position_m, velocity_m_s: where the user says it is and how it moves, if it does.
    delay_spread_s: RMS. doppler_hz: maximum Doppler shift. k_factor_db: steady power over fading power (Rician K), -10
    for any less. confidence: share of what was received that is no noise.
    phases: whether the antennas' mutual phases are calibrated; "drifting" where they run away from each other.
    """

    TOPIC: ClassVar[str] = "channel"
    ARRAYS: ClassVar[tuple[ArraySpec, ...]] = (
        ArraySpec("cfr", ("<c8",), ("P", "B", "S")),
        ArraySpec("tones_hz", ("<f8",), ("S",)),
        ArraySpec("ris_patterns", ("<c8",), ("P", "M")),
        ArraySpec("beams", ("<c8",), ("N", "B")),
        ArraySpec("cir", ("<c8",), ("B", "T")),
    )

    user: Name
    block: Count
    domain: Literal["effective", "cascade"]
    noise_power: Positive
    snr_db: float
    carrier_hz: Positive | None = None
    cfo_hz: float | None = None
    tap_s: Positive | None = None
    delay_spread_s: Annotated[float, msgspec.Meta(ge=0)] | None = None
    doppler_hz: Annotated[float, msgspec.Meta(ge=0)] | None = None
    k_factor_db: float | None = None
    confidence: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    phases: Literal["calibrated", "uncalibrated", "drifting"] | None = None
    position_m: Vector | None = None
    velocity_m_s: Vector | None = None
    cfr: ComplexArray
    tones_hz: FloatArray
    ris_patterns: ComplexArray
    beams: ComplexArray
    cir: ComplexArray

    @property
    def antennas(self) -> int:
        """N, the length of the array that the channel was seen with."""
        return int(self.beams.shape[0] or self.cfr.shape[1])

    def problem(self) -> str | None:
        if self.cfr.size == 0:
            return "empty cfr"
        if self.domain == "cascade" and (self.ris_patterns.shape[1] or self.beams.shape[0]):
            return "a cascade frame has neither patterns nor beams"
        return None


class FeedbackFrame(Message, frozen=True, kw_only=True, eq=False):
    """What a user sends back: a codeword of a named CSI codec, and powers that it measured.

    codeword [L]: the encoder's output; L = 0 where only powers are reported. gain: the channel's norm, which
    the codec's normalisation took out. powers_dbm [B]: received power of beam b. sent_dbm: what a resource element of
    its reference signals is sent with, for which a radio's channel is a path gain no sooner than it is taken out.
    """

    TOPIC: ClassVar[str] = "feedback"
    ARRAYS: ClassVar[tuple[ArraySpec, ...]] = (
        ArraySpec("codeword", ("<f4",), ("L",)),
        ArraySpec("powers_dbm", ("<f4",), ("B",)),
        ArraySpec("ris_pattern", ("<c8",), ("M",)),
    )

    user: Name
    block: Count
    codec: Name
    gain: Positive = 1.0
    position_m: Vector | None = None
    velocity_m_s: Vector | None = None
    sent_dbm: float | None = None
    codeword: FloatArray
    powers_dbm: FloatArray
    ris_pattern: ComplexArray


class BlockDecision(Message, frozen=True, kw_only=True, eq=False):
    """What the radio and the RIS are told for one coherence block.

    precoder [N, K], |precoder|_F^2 = transmit power in watt (relative power where the link is uncalibrated).
    theta [M]: RIS element states. Per user, in the order of `users` [K]: sinr_db on the belief's mean, sinr_low_db and
    sinr_high_db with nine of ten SINRs between them under the belief and as many below as above, promised_outage =
    P(rate < rate target) under the belief, residual_db = residual over channel power.
    rung: the step of the deadline ladder that made it. notes: what is not configured or went wrong.
    """

    TOPIC: ClassVar[str] = "decision"
    ARRAYS: ClassVar[tuple[ArraySpec, ...]] = (
        ArraySpec("precoder", ("<c8",), ("N", "K")),
        ArraySpec("theta", ("<c8",), ("M",)),
        ArraySpec("sinr_db", ("<f4",), ("K",)),
        ArraySpec("sinr_low_db", ("<f4",), ("K",)),
        ArraySpec("sinr_high_db", ("<f4",), ("K",)),
        ArraySpec("promised_outage", ("<f4",), ("K",)),
        ArraySpec("rate_target_bps_hz", ("<f4",), ("K",)),
        ArraySpec("residual_db", ("<f4",), ("K",)),
    )

    block: Count
    rung: Literal["robust", "linear", "hold", "silence"]
    users: tuple[Name, ...]
    validity: tuple[Literal["learning", "converged", "drifted"], ...]
    designed_block: Count
    power: Annotated[float, msgspec.Meta(ge=0)]
    notes: tuple[Note, ...] = ()
    precoder: ComplexArray
    theta: ComplexArray
    sinr_db: FloatArray
    sinr_low_db: FloatArray
    sinr_high_db: FloatArray
    promised_outage: FloatArray
    rate_target_bps_hz: FloatArray
    residual_db: FloatArray

    def problem(self) -> str | None:
        if not len(self.users) == len(self.validity) == self.precoder.shape[1]:
            return "users, validity and precoder columns differ in number"
        return None


class OutcomeFrame(Message, frozen=True, kw_only=True, eq=False):
    """What one user really got in a block: the truth that promises are audited against.

    decision_seq, decision_epoch: seq and epoch of the decision that was on air; without the epoch, any life of the
    controller may have made it. ack: whether the user's rate target was met.
    """

    TOPIC: ClassVar[str] = "outcome"

    user: Name
    block: Count
    decision_seq: Count
    decision_epoch: Count | None = None
    received_power_dbm: float
    sinr_db: float
    rate_bps_hz: Annotated[float, msgspec.Meta(ge=0)]
    ack: bool


class StepBudget(Message, frozen=True, kw_only=True, eq=False):
    """What the edge granted one call of `step`; journalled, so that a replay grants the same.

    t_ns is the `now_ns` that `step` was given. rung: the costliest rung allowed. lead_s: how long after the
    measurement the decision will be on air, on average.
    """

    TOPIC: ClassVar[str] = "budget"

    block: Count
    rung: Literal["robust", "linear", "hold", "silence"]
    iterations: Count
    lead_s: Annotated[float, msgspec.Meta(ge=0)]


def _paths(hop: str, rows: str) -> tuple[ArraySpec, ...]:
    """The arrays of one hop's paths in a `TwinFrame`; `rows` is the letter for how many there are."""
    return (
        ArraySpec(f"{hop}_paths", ("<i2",), ("K",)),
        ArraySpec(f"{hop}_gain", ("<c8",), (rows,)),
        ArraySpec(f"{hop}_length_m", ("<f8",), (rows,)),
        ArraySpec(f"{hop}_departure", ("<f4",), (rows, "X")),
        ArraySpec(f"{hop}_arrival", ("<f4",), (rows, "X")),
        ArraySpec(f"{hop}_kind", ("<i2",), (rows,)),
        ArraySpec(f"{hop}_reach_m", ("<f8",), (rows,)),
        ArraySpec(f"{hop}_mirror", ("<f4",), (rows, "X", "X")),
    )


class TwinFrame(Message, frozen=True, kw_only=True, eq=False):
    """Paths that our own tracer found for the twin while it runs. It stays inside: the wire takes none.

    asked_ns: when users[k] was, or was to be, at positions_m[k] ([K, 3]). trace_s: what tracing took. bs_*: paths from
    the base station, ris_*: from the RIS. *_paths [K] of them belong to each user, one user's after the other's; the
    rest are the columns of `sim.paths.PathTable`, in the types that site bundles keep them in. errors_db [K]: how far
    the trace is from what was predicted before it came, None where nothing was.
    """

    TOPIC: ClassVar[str] = "twin"
    ARRAYS: ClassVar[tuple[ArraySpec, ...]] = (
        ArraySpec("positions_m", ("<f8",), ("K", "X")),
        *_paths("bs", "L"),
        *_paths("ris", "R"),
    )

    asked_ns: Count
    users: tuple[Name, ...]
    trace_s: Annotated[float, msgspec.Meta(ge=0)]
    errors_db: tuple[float | None, ...]
    positions_m: FloatArray
    bs_paths: IntArray
    bs_gain: ComplexArray
    bs_length_m: FloatArray
    bs_departure: FloatArray
    bs_arrival: FloatArray
    bs_kind: IntArray
    bs_reach_m: FloatArray
    bs_mirror: FloatArray
    ris_paths: IntArray
    ris_gain: ComplexArray
    ris_length_m: FloatArray
    ris_departure: FloatArray
    ris_arrival: FloatArray
    ris_kind: IntArray
    ris_reach_m: FloatArray
    ris_mirror: FloatArray

    def problem(self) -> str | None:
        if self.positions_m.shape != (len(self.users), 3) or len(self.errors_db) != len(self.users):
            return "users, positions and errors differ in number"
        for counts, lengths in ((self.bs_paths, self.bs_length_m), (self.ris_paths, self.ris_length_m)):
            if (counts < 0).any() or int(counts.sum(dtype=np.int64)) != len(lengths):
                return "paths are not as many as the users have"
        ways_m = (self.bs_length_m, self.bs_reach_m, self.ris_length_m, self.ris_reach_m)
        return None if all((way_m > 0).all() for way_m in ways_m) else "a path without length"


MESSAGE_TYPES: tuple[type[Message], ...] = (
    IqBlock,
    ChannelFrame,
    FeedbackFrame,
    BlockDecision,
    OutcomeFrame,
    StepBudget,
    TwinFrame,
)


def no_array(*shape: int, dtype: npt.DTypeLike = np.complex64) -> npt.NDArray[Any]:
    """An array with a zero in its shape, for the fields that a source has nothing to put into."""
    if 0 not in shape:
        raise ValueError(f"shape {shape} is not empty")
    return np.zeros(shape, dtype)
