"""What `demo --iq` configures: a receiver for what the simulated radio hears, and the calibration of its chains."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from ingest.antenna_calibration import write_calibration
from ingest.nr.dmrs import PuschDmrs
from sim.bundle import load_bundle
from sim.channels import SiteChannels
from sim.iq_radio import SIGNAL, BandPlan, Chains, RadioSettings, plan_band

RIS_SWITCH_S = 2e-3
"""The simulated RIS is set as soon as the testbed has a decision, which is a message away."""


def receiver_tables(twin: Path, users: int, seed: int, folder: Path) -> dict[str, Any]:
    """`[receiver]` for a simulated radio at the site of a twin; its chains' calibration is written into `folder`."""
    channels = SiteChannels(load_bundle(twin))
    band = plan_band(channels.carrier_hz, users)
    path = folder / "antennas.json"
    chains = Chains.made(RadioSettings(), channels.antennas, seed)
    write_calibration(path, chains.calibration(band.center_hz), force=True)
    return receiver_table(band) | {"antenna_calibrations": (str(path),)}


def receiver_table(band: BandPlan) -> dict[str, Any]:
    """`[receiver]` for what lies in a band."""
    carrier = band.carrier
    return {
        "scs_hz": carrier.scs_hz,
        "prbs": carrier.prbs,
        "carrier_hz": carrier.carrier_hz,
        "first_crb": carrier.first_crb,
        "pci": band.pci,
        "references": (_reference(band.signal),),
        "ris_switch_s": RIS_SWITCH_S,
    }


def _reference(signal: PuschDmrs) -> dict[str, Any]:
    """A signal as a configuration has it: what differs from the defaults."""
    told = asdict(signal)
    changed = {one.name: told[one.name] for one in fields(signal) if told[one.name] != one.default}
    return {"name": SIGNAL, "kind": "pusch", **changed}
