"""The tables of fidelity knobs. Left out, every knob is off: nothing is moved, rebuilt, attenuated or distorted."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Metres = Annotated[float, Field(ge=-1e6, le=1e6)]
Vector = tuple[Metres, Metres, Metres]
Size = Annotated[float, Field(gt=0, le=1e4)]


class Table(BaseModel):
    """A table of a file: unknown keys and numbers that are none are refused; what was read does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ReconstructionSettings(Table):
    """Buildings rebuilt from a point cloud as in paper P5, section VI-A.

    density_m2: points per square metre of surface. neighbours: points that a normal is estimated from. octree_depth: of
    the screened Poisson reconstruction. face_ratio: faces kept by quadric decimation, of those that the original has;
    P5 keeps as many, which is 1.
    """

    density_m2: Annotated[float, Field(ge=1e-4, le=1e4)]
    neighbours: Annotated[int, Field(ge=3, le=1000)] = 10
    octree_depth: Annotated[int, Field(ge=3, le=12)] = 8
    face_ratio: Annotated[float, Field(gt=0, le=1000)] = 1.0


class GeometrySettings(Table):
    """What is wrong with the buildings. The ground never moves; what hangs together is one building.

    shift_m: every building by this. shift_sigma_m: each building by its own Gaussian, per axis, east and north.
    shift_length_m: each building by this far, in its own random horizontal direction, as in paper P2, section VI (4 m).
    The three add up. fixed: names of objects that are not buildings. seed: of everything random here.
    """

    shift_m: Vector = (0.0, 0.0, 0.0)
    shift_sigma_m: Annotated[float, Field(ge=0, le=1000)] = 0.0
    shift_length_m: Annotated[float, Field(ge=0, le=1000)] = 0.0
    reconstruction: ReconstructionSettings | None = None
    fixed: tuple[str, ...] = ()
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1

    @property
    def shifts(self) -> bool:
        """Whether any building may move."""
        return any(self.shift_m) or self.shift_sigma_m > 0 or self.shift_length_m > 0

    @property
    def changes(self) -> bool:
        """Whether any building is not as the scene has it."""
        return self.shifts or self.reconstruction is not None


class Tree(Table):
    """The crown of a tree, or a wood: a box or an ellipsoid with full extents `size_m`, turned by `yaw_deg`."""

    middle_m: Vector
    size_m: tuple[Size, Size, Size]
    shape: Literal["box", "ellipsoid"] = "ellipsoid"
    yaw_deg: Annotated[float, Field(ge=-1e6, le=1e6)] = 0.0


class FoliageSettings(Table):
    """Trees and what a way of d metres through them costs.

    model: `linear`, attenuation_db_m * d (paper P5, VI-B: 1 dB/m at 3.5 GHz); `p833`, ITU-R P.833-10, eq. 1, which
    levels off at limit_db; `weissberger`, see `sim.fidelity.foliage`.
    """

    trees: Annotated[tuple[Tree, ...], Field(max_length=100_000)] = ()
    model: Literal["linear", "p833", "weissberger"] = "linear"
    attenuation_db_m: Annotated[float, Field(ge=0, le=100)] = 1.0
    limit_db: Annotated[float, Field(gt=0, le=1000)] = 30.0


class PositionSettings(Table):
    """Error of where users are believed to be. sigma_m: per axis. correlation_s: how long it lasts, in the testbed.

    common: all users of a bundle are misplaced by the same vector, as by a map that does not lie on its ground.
    """

    sigma_m: Annotated[float, Field(ge=0, le=1000)] = 0.0
    correlation_s: Annotated[float, Field(gt=0, le=1e6)] = 5.0
    common: bool = False
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1


class AmplifierSettings(Table):
    """A power amplifier of unit gain at low level: the Rapp model, with AM/PM where am_pm_deg is not 0.

    backoff_db: saturation power over the mean power of what goes in. smoothness: Rapp's p. am_pm_deg: phase far beyond
    the knee, half of it at the knee; am_pm_knee: input amplitude over that of saturation; am_pm_order: its exponent.
    """

    backoff_db: Annotated[float, Field(ge=-30, le=100)] = 10.0
    smoothness: Annotated[float, Field(ge=0.1, le=1000)] = 2.0
    am_pm_deg: Annotated[float, Field(ge=-360, le=360)] = 0.0
    am_pm_knee: Annotated[float, Field(gt=0, le=100)] = 1.0
    am_pm_order: Annotated[float, Field(gt=0, le=20)] = 4.0


class HardwareSettings(Table):
    """What antennas, oscillators, amplifiers and converters do to a signal.

    field_of_view_deg: opening angle of the cone about boresight; None leaves it to the site's array. mismatch_*: spread
    of the elements' fixed gains [dB] and phases [deg]. linewidth_hz: full width at half maximum of the oscillator's
    Lorentzian line; own_oscillators: every element has its own. adc_bits: of I and of Q each. adc_loading_db: full
    scale over rms; None takes what is best for Gaussian signals. seed: of mismatch and phase noise.
    """

    field_of_view_deg: Annotated[float, Field(gt=0, le=360)] | None = None
    mismatch_gain_db: Annotated[float, Field(ge=0, le=20)] = 0.0
    mismatch_phase_deg: Annotated[float, Field(ge=0, le=360)] = 0.0
    linewidth_hz: Annotated[float, Field(ge=0, le=1e9)] = 0.0
    own_oscillators: bool = False
    amplifier: AmplifierSettings | None = None
    adc_bits: Annotated[int, Field(ge=1, le=16)] | None = None
    adc_loading_db: Annotated[float, Field(ge=-40, le=60)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1

    @model_validator(mode="after")
    def _of_something(self) -> HardwareSettings:
        if self.adc_loading_db is not None and self.adc_bits is None:
            raise ValueError("adc_loading_db without adc_bits")
        if self.own_oscillators and not self.linewidth_hz:
            raise ValueError("own_oscillators without linewidth_hz")
        return self

    @property
    def mismatch(self) -> bool:
        """Whether elements differ from each other."""
        return self.mismatch_gain_db > 0 or self.mismatch_phase_deg > 0

    @property
    def on_signals(self) -> list[str]:
        """Knobs turned that act on signals, or over time, and not on a channel."""
        turned = {
            "linewidth_hz": self.linewidth_hz > 0,
            "amplifier": self.amplifier is not None,
            "adc_bits": self.adc_bits is not None,
        }
        return [name for name, on in turned.items() if on]
