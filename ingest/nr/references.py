"""Reference signals as a user configures them: a carrier, and what is sent on it.

A table per signal says its kind and the fields of its class; every key is checked.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import msgspec

from ingest.errors import UsageRefused
from ingest.nr.csi_rs import CsiRs, TrackingRs
from ingest.nr.dmrs import PdschDmrs, PuschDmrs
from ingest.nr.ofdm import MAX_PRBS, Carrier
from ingest.nr.slot_plan import Reference
from ingest.nr.srs import Srs

KINDS: dict[str, type[Any]] = {
    "pusch": PuschDmrs,
    "pdsch": PdschDmrs,
    "srs": Srs,
    "csi-rs": CsiRs,
    "trs": TrackingRs,
}


@dataclass(frozen=True)
class ReferenceSettings:
    """What to receive. signals: (name, signal), the names becoming those of users.

    frame_start_s: when, after the stream's first sample, system frame `frame` starts; None: as the SSB of the cell says
    (of `pci`, or the strongest).
    """

    carrier: Carrier
    signals: tuple[tuple[str, Reference], ...]
    frame_start_s: float | None = None
    frame: int = 0
    pci: int | None = None


def carrier_from(scs_hz: float, prbs: int, carrier_hz: float, first_crb: int, *, where: str) -> Carrier:
    """The carrier of a configuration; raises `UsageRefused`."""
    if scs_hz not in (15e3, 30e3, 60e3, 120e3, 240e3):
        raise UsageRefused(f"subcarrier spacing {scs_hz} Hz", where=where, mend="15e3, 30e3, 60e3, 120e3 or 240e3")
    if not 1 <= prbs <= MAX_PRBS:
        raise UsageRefused(f"{prbs} PRBs", where=where, mend=f"1 to {MAX_PRBS}")
    return Carrier(scs_hz, prbs, carrier_hz, first_crb)


def signals_from(
    tables: Sequence[Mapping[str, Any]], carrier: Carrier, *, where: str
) -> tuple[tuple[str, Reference], ...]:
    """The signals that `tables` describe: `name`, `kind` and the fields of that kind; raises `UsageRefused`."""
    found: list[tuple[str, Reference]] = []
    for number, table in enumerate(tables):
        place = f"{where}[{number}]"
        name, kind = table.get("name", ""), table.get("kind", "")
        if not isinstance(name, str) or not name or len(name) > 40:
            raise UsageRefused("a signal needs a name of at most 40 characters", where=place, mend='as name = "ue1"')
        if name in {known for known, _ in found}:
            raise UsageRefused(f"two signals are called {name!r}", where=place, mend="name each differently")
        if not isinstance(kind, str) or kind not in KINDS:
            raise UsageRefused(f"unknown kind {kind!r}", where=place, mend=f"one of {', '.join(KINDS)}")
        options = {key: value for key, value in table.items() if key not in ("name", "kind")}
        signal = _signal(KINDS[kind], options, place)
        try:
            for slot in range(carrier.slots_per_frame):
                signal.pilots(carrier, slot)
        except ValueError as error:
            raise UsageRefused(str(error), where=place) from None
        found.append((name, signal))
    return tuple(found)


def _signal(kind: type[Any], options: dict[str, Any], where: str) -> Reference:
    known = [one.name for one in fields(kind)]
    for key in options:
        if key not in known:
            nearest = difflib.get_close_matches(key, known, 1)
            mend = f"did you mean {nearest[0]}?" if nearest else f"one of {', '.join(known)}"
            raise UsageRefused(f"unknown key {key!r}", where=where, mend=mend)
    try:
        signal: Reference = msgspec.convert(options, kind)
    except (msgspec.ValidationError, ValueError) as error:
        raise UsageRefused(str(error), where=where) from None
    return signal
