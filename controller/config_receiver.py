"""The `[receiver]` table of a configuration, and what all tables have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from ingest.antenna_calibration import AntennaCalibration, read_calibration
from ingest.nr.references import ReferenceSettings, carrier_from, signals_from

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Table(BaseModel):
    """A table whose keys are all known and never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ReceiverTable(Table):
    """What is received from IQ beside SSBs. references: reference signals (name, kind and the fields of that kind) on a
    carrier of `prbs` blocks around carrier_hz, whose lowest is common resource block first_crb. frame_start_s: when
    frame 0 starts after the stream's first sample; left out, the SSBs of `pci` (or of the strongest cell) tell.
    antenna_calibrations: files of `ingest.antenna_calibration`. search_again_s: in how long a live stream is searched
    for further cells while one is followed; 0: not before it is lost. ris_switch_s: how long after a decision was sent
    out the RIS is surely set; left out, nobody is taken to follow decisions, and frames are not joined with them."""

    scs_hz: Annotated[float, Field(gt=0)] = 30e3
    prbs: Annotated[int, Field(ge=1, le=275)] = 106
    carrier_hz: Annotated[float, Field(ge=0)] = 0.0
    first_crb: Annotated[int, Field(ge=0, le=2199)] = 0
    frame_start_s: Finite | None = None
    pci: Annotated[int, Field(ge=0, le=1007)] | None = None
    references: tuple[dict[str, Any], ...] = ()
    antenna_calibrations: tuple[str, ...] = ()
    search_again_s: Annotated[float, Field(ge=0, le=86400)] = 0.0
    ris_switch_s: Annotated[float, Field(ge=0, le=1)] | None = None

    def calibrations(self) -> tuple[AntennaCalibration, ...]:
        """What the files say of radios' antennas; raises `InputRefused`."""
        return tuple(read_calibration(Path(name)) for name in self.antenna_calibrations)

    def reference_names(self) -> frozenset[str]:
        """The names of what is received; those of users are these, a dot, and a port."""
        return frozenset(str(table.get("name", "")) for table in self.references)

    def settings(self) -> ReferenceSettings | None:
        """What the receiver is told, None where only SSBs are received; raises `UsageRefused`."""
        if not self.references:
            return None
        carrier = carrier_from(self.scs_hz, self.prbs, self.carrier_hz, self.first_crb, where="[receiver]")
        signals = signals_from(self.references, carrier, where="[receiver] references")
        return ReferenceSettings(carrier, signals, self.frame_start_s, pci=self.pci)
