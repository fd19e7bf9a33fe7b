"""Cells that a receiver found, as the commands tell of them."""

from __future__ import annotations

from typing import Any

from ingest.nr.receiver import Cell


def cell_summary(cell: Cell) -> dict[str, Any]:
    """A cell as CLI-JSON shows it. `mib_crc`: whether its PBCH proved it; what that says is absent where it did not."""
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
        "mib_crc": cell.mib is not None,
    }
    if found.half_frame is not None:
        shown["half_frame"] = found.half_frame
    if cell.mib is not None:
        shown["mib"] = {
            "sfn": cell.mib.sfn,
            "scs_common_hz": cell.mib.scs_common_hz,
            "k_ssb": cell.mib.k_ssb,
            "dmrs_type_a_position": cell.mib.dmrs_type_a_position,
            "pdcch_config_sib1": cell.mib.pdcch_config_sib1,
            "cell_barred": cell.mib.cell_barred,
            "intra_freq_reselection": cell.mib.intra_freq_reselection,
        }
    if cell.timing is not None:
        shown["pattern"] = cell.timing.case
        shown["frame_start_s"] = round(cell.timing.frame_start_s, 9)
        shown["slot"] = cell.timing.slot
    if cell.tracker is not None and not cell.tracker.learning:
        shown["tracked_cfo_hz"] = round(cell.tracker.cfo_hz, 2)
        shown["drift_ppm"] = round(cell.tracker.drift_ppm, 4)
        shown["ssb_period_s"] = cell.tracker.period_s
    return shown
