"""Cells that a receiver found, as the commands tell of them."""

from __future__ import annotations

from typing import Any

from ingest.nr.receiver import Cell


def cell_summary(cell: Cell) -> dict[str, Any]:
    """A cell as CLI-JSON shows it. What the PBCH would tell is absent: it is not decoded."""
    found = cell.measurement
    shown: dict[str, Any] = {
        "pci": found.pci,
        "ssb_index": found.ssb_index,
        "cfo_hz": round(found.cfo_hz, 2),
        "snr_db": round(found.snr_db, 2),
        "time_s": round(cell.time_s, 9),
        "ssb_center_hz": found.ssb_center_hz,
        "scs_hz": found.scs_hz,
        "seen": cell.seen,
    }
    if found.half_frame is not None:
        shown["half_frame"] = found.half_frame
    return shown
