"""Cells and reference signals that were found, as the commands tell of them."""

from __future__ import annotations

from math import log10
from typing import Any

from ingest.messages import IqBlock
from ingest.nr.receiver import Cell
from ingest.nr.reference_receiver import ReferenceReceiver


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


def dmrs_summaries(block: IqBlock) -> list[dict[str, Any]]:
    """The DMRS that are found in a block with nothing told, as CLI-JSON shows them.

    evidence: log10 of the probability that noise or data look like this to any of the hypotheses tried.
    """
    from ingest.nr.find_dmrs import find_dmrs  # compiles its kernels: only who asks waits
    from ingest.nr.found_channel import estimate_found

    shown = []
    for found in find_dmrs(block.samples, block.rate_hz, block.center_hz):
        entry: dict[str, Any] = {
            "channel": found.channel,
            "slot": found.slot,
            "symbols": list(found.symbols),
            "config_type": found.config_type,
            "comb": found.cdm_group,
            "prbs": [found.first_prb, found.first_prb + found.prbs - 1],
            "n_id": found.n_id,
            "n_scid": found.n_scid,
            "snr_db": round(found.snr_db, 2),
            "cfo_hz": round(found.cfo_hz, 2),
            "scs_hz": found.scs_hz,
            "slot_start_s": round((block.first_sample + found.start) / block.rate_hz, 9),
            "evidence": round(found.log10_false_alarm, 1),
        }
        channel = estimate_found(block.samples, block.rate_hz, block.center_hz, found)
        if channel is not None:
            estimate = channel.estimate
            error_power = float(estimate.error_power[0])
            lmmse_db = float(estimate.snr_db[0]) + 10 * log10(estimate.noise_power / error_power)
            entry["snr_db"] = round(float(estimate.snr_db[0]), 2)
            entry["snr_lmmse_db"] = round(lmmse_db, 2)
            by_symbol = zip(channel.symbols, channel.symbol_snr_db, strict=True)
            entry["symbol_snr_db"] = {str(symbol): round(snr_db, 2) for symbol, snr_db in by_symbol}
            entry["cfo_hz"] = round(found.cfo_hz + estimate.cfo_hz, 2)
        shown.append(entry)
    return shown


def reference_summaries(receiver: ReferenceReceiver) -> dict[str, Any]:
    """What was heard of the configured reference signals, per user, and slots that were refused, by reason."""
    users = {
        user: {
            "slots": heard.slots,
            "snr_db": round(heard.snr_db, 2),
            "snr_lmmse_db": round(heard.snr_lmmse_db, 2),
            "cfo_hz": round(heard.cfo_hz, 2),
        }
        for user, heard in sorted(receiver.heard.items())
    }
    return {"users": users, "refused": dict(receiver.refused)}
