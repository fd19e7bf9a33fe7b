"""What `bench_estimation` found: the keys of its rows, the worst of them, and tables for people and for the docs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

CASE_KEYS = {
    "channel": "38.901 model",
    "delay_spread_ns": "RMS",
    "prbs": "of the allocation, at 30 kHz",
    "layers": "",
    "users": "that send them",
    "antennas": "of the receiver",
    "dmrs": "configuration type, symbols per position x positions, ports",
    "speed_mps": "at 3.5 GHz",
    "snr_db": "one layer's mean channel over the noise, on a DMRS element",
    "slots": "that errors are taken over, after the warm-up",
    "refused": "share of the slots after the warm-up without an estimate",
    "ls_nmse_db": "our least squares at the pilots, despread",
    "sionna_ls_nmse_db": "Sionna's",
    "interpolated_nmse_db": "Sionna's least squares with the best of its interpolations",
    "interpolation": "which one that is",
    "lmmse_nmse_db": "ours",
    "ci_db": "half of its 95 % confidence interval",
    "genie_nmse_db": "LMMSE that knows the true profile",
    "gain_db": "of ours over the interpolation",
    "gap_db": "of ours to the genie",
    "gap_ci_db": "half of its 95 % confidence interval",
    "learning_gap_db": "gap over slots 1, 2, 3-4, 5-8, ... of the run; None where all were refused",
    "error_power_db": "error power that we report over the real one",
    "snr_bias_db": "mean of reported minus true SNR of a slot",
    "snr_std_db": "its standard deviation",
    "confidence_error": "mean of |reported confidence - true share of signal in what was received|",
}
SUMMARY_KEYS = {
    "worst_ls_difference_db": "largest |ls - sionna_ls|",
    "least_gain_at_0_db": "smallest gain_db at 0 dB SNR",
    "worst_gap_db": "largest gap_db",
    "worst_gap_case": "where that is",
    "wrong_accepted": "slots accepted under a wrong hypothesis, of wrong_tried",
    "wrong_tried": "",
}

_COLUMNS = (
    ("channel", lambda row: f"{row['channel']} {row['delay_spread_ns']:.0f} ns"),
    ("PRBs", lambda row: str(row["prbs"])),
    ("DMRS", lambda row: row["dmrs"] + (f", {row['users']} users" if row["users"] > 1 else "")),
    ("antennas", lambda row: str(row["antennas"])),
    ("m/s", lambda row: f"{row['speed_mps']:.0f}"),
    ("SNR", lambda row: f"{row['snr_db']}"),
    ("LS", lambda row: f"{row['ls_nmse_db']:.1f}"),
    ("Sionna's LS", lambda row: f"{row['sionna_ls_nmse_db']:.1f}"),
    ("interpolated", lambda row: f"{row['interpolated_nmse_db']:.1f}"),
    ("LMMSE", lambda row: f"{row['lmmse_nmse_db']:.1f} ± {row['ci_db']:.1f}"),
    ("genie", lambda row: f"{row['genie_nmse_db']:.1f}"),
    ("gap", lambda row: f"{row['gap_db']:.2f} ± {row['gap_ci_db']:.2f}"),
    ("error told", lambda row: f"{row['error_power_db']:+.1f}"),
    ("refused", lambda row: f"{100 * row['refused']:.1f} %"),
)

_CHECKS = {
    "refusals": ("antennas", "snr_db", "hypothesis", "estimator", "accepted", "tried"),
    "accuracy": (
        "speed_mps",
        "snr_db",
        "cfo_hz",
        "cfo_bias_hz",
        "cfo_std_hz",
        "doppler_hz",
        "told_doppler_hz",
        "delay_spread_ns",
        "told_delay_spread_ns",
        "snr_bias_db",
    ),
    "chain": (
        "channel",
        "snr_db",
        "slots",
        "refused",
        "lmmse_nmse_db",
        "genie_nmse_db",
        "gap_db",
        "cfo_error_hz",
        "delay_ns",
        "told_delay_ns",
    ),
}


def summary(rows: list[dict[str, Any]], wrong: list[dict[str, Any]]) -> dict[str, Any]:
    """The worst of everything, of `SUMMARY_KEYS`."""
    worst = max(rows, key=lambda row: row["gap_db"])
    hypotheses = [row for row in wrong if row["hypothesis"] != "right"]
    return {
        "worst_ls_difference_db": max(abs(row["ls_nmse_db"] - row["sionna_ls_nmse_db"]) for row in rows),
        "least_gain_at_0_db": min((row["gain_db"] for row in rows if row["snr_db"] == 0), default=None),
        "worst_gap_db": worst["gap_db"],
        "worst_gap_case": " ".join(str(worst[key]) for key in ("channel", "delay_spread_ns", "dmrs", "snr_db")),
        "wrong_accepted": sum(row["accepted"] for row in hypotheses),
        "wrong_tried": sum(row["tried"] for row in hypotheses),
    }


def tables(result: dict[str, Any], *, markdown: bool) -> str:
    """All tables of a result: errors by case and SNR in dB, then the checks."""
    cells = [[show(row) for _, show in _COLUMNS] for row in result["cases"]]
    parts = [_table([name for name, _ in _COLUMNS], cells, markdown)]
    for name, keys in _CHECKS.items():
        parts.append(_table(keys, [[_short(row[key]) for key in keys] for row in result[name]], markdown))
    parts.append(
        _table(("worst of all", ""), [[key, _short(value)] for key, value in result["summary"].items()], markdown)
    )
    return "\n\n".join(parts)


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    return "-" if value is None else str(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], markdown: bool) -> str:
    if markdown:
        lines = [head, ["---"] * len(head), *rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)
    widths = [max(len(line[column]) for line in (head, *rows)) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in (head, *rows)
    )
