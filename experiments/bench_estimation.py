"""How well PUSCH channels are estimated, measured against Sionna and against a genie (`twinbeam bench estimation`).

Sionna sends, fades and estimates by least squares; the genie knows the true power-delay profile, motion and noise
power. All see the same elements. Errors are taken over all subcarriers of the allocation in the middle of the DMRS
symbols, after a warm-up in which the prior is learnt, over the slots that were not refused.

The result, as `--json` prints it: seed; quick; cases, one for every link and SNR, of `estimation_report.CASE_KEYS`;
refusals, accuracy and chain of `estimation_checks`; summary, of `estimation_report.SUMMARY_KEYS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from experiments.estimation_report import CASE_KEYS, summary
from experiments.pusch_link import GROUPS_WITHOUT_DATA, Case, Chunk, Link
from ingest.errors import UsageRefused
from ingest.nr.ofdm import SYMBOLS_PER_SLOT
from ingest.nr.slot_estimate import SlotEstimate
from ingest.nr.slot_plan import Stream

Complex = npt.NDArray[np.complexfloating]
Real = npt.NDArray[np.float64]

SNRS_DB = (-5, 0, 5, 10, 20, 30)
INTERPOLATIONS = ("nn", "lin", "lin_time_avg")

CASES = (
    Case("TDL-A", 30.0),
    Case("TDL-A", 100.0, antennas=4, additional_positions=1, speed_mps=30.0),
    Case("TDL-A", 200.0, antennas=2, config_type=2, ports=(0, 1, 2, 3)),
    Case("TDL-B", 100.0, antennas=4, ports=(0, 1), speed_mps=3.0),
    Case("TDL-B", 300.0, antennas=2, length=2, speed_mps=3.0),
    Case("TDL-C", 100.0, antennas=8, ports=(0, 1, 2, 3), prbs=24, drops=4),
    Case("TDL-C", 100.0, antennas=4, ports=(0, 1, 4, 5), length=2, additional_positions=1, drops=2),
    Case("TDL-B", 200.0, antennas=2, ports=(0, 1, 2), users=3, additional_positions=1),
    Case("TDL-A", 100.0, antennas=4, ports=(0, 2, 4), users=3, length=2, additional_positions=1, speed_mps=30.0),
    Case("TDL-C", 200.0),
    Case("TDL-C", 200.0, prbs=106, antennas=2),
    Case("TDL-C", 200.0, antennas=4, additional_positions=2),
    Case("TDL-D", 100.0, antennas=2, additional_positions=1),
    Case("CDL-A", 100.0, antennas=8, drops=20, speed_mps=3.0),
    Case("CDL-B", 100.0, antennas=4, ports=(0, 1), drops=20, speed_mps=3.0),
    Case("CDL-C", 200.0, antennas=4, drops=20),
)
QUICK_CASES = (
    Case("TDL-C", 200.0),
    Case("TDL-A", 100.0, antennas=2, ports=(0, 1), additional_positions=1, prbs=24),
    Case("CDL-C", 100.0, antennas=4, prbs=24, drops=10),
)
QUICK_SNRS_DB = (0, 10, 30)

_BLOCK = 10
"""Slots that bootstrap draws together, for neighbours fade together."""

_DRAWS = 400

Progress = Callable[[int, int], None]


@dataclass
class Tally:
    """What one estimator did, slot by slot: squared errors and energies, summed over layers, antennas and tones."""

    refused: list[bool] = field(default_factory=list)
    energy: list[float] = field(default_factory=list)
    lmmse: list[float] = field(default_factory=list)
    genie: list[float] = field(default_factory=list)
    reported: list[float] = field(default_factory=list)
    pilot_energy: list[float] = field(default_factory=list)
    ls: list[float] = field(default_factory=list)
    snr_error_db: list[float] = field(default_factory=list)
    confidence_error: list[float] = field(default_factory=list)
    oracle: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in ("ls", *INTERPOLATIONS)})


def despread(link: Link, stream: Stream, cover: Complex, ls: Complex) -> Complex:
    """Least squares of one port from received ls [A, L, S], as Sionna does it: means over the elements that a cover
    spans, held over them. Shape [A, U, S]."""
    found = ls * cover.conj()
    if link.case.length == 2 and stream.span == 1:
        found = found.reshape(len(ls), -1, 2, ls.shape[2]).mean(axis=2)
    found = np.repeat(found, link.case.length, axis=1)
    return np.asarray(np.repeat(found.reshape(*found.shape[:2], -1, 2).mean(axis=3), 2, axis=2))


def squared(values: Complex) -> float:
    return float(np.sum(np.abs(values) ** 2))


class Bench:
    """One link, at several SNRs, with one set of estimators and genies for each."""

    def __init__(self, case: Case, snrs_db: tuple[int, ...], seed: int) -> None:
        from sionna.phy import config
        from sionna.phy.nr import PUSCHLSChannelEstimator

        config.seed = seed
        self.case = case
        self.link = link = Link(case)
        self.snrs_db = snrs_db
        self.tallies = {snr_db: Tally() for snr_db in snrs_db}
        self._rng = np.random.default_rng(seed)
        self._estimators = {snr_db: link.estimators() for snr_db in snrs_db}
        self._genies = {snr_db: link.genies(10 ** (-snr_db / 10), link.tones_hz) for snr_db in snrs_db}
        arguments = (link.transmitter.resource_grid, case.length, case.additional_positions, GROUPS_WITHOUT_DATA)
        self._oracles = {name: PUSCHLSChannelEstimator(*arguments, name) for name in INTERPOLATIONS}

    def run(self, slots: int, warm_up: int, progress: Callable[[int], None]) -> list[dict[str, Any]]:
        """A row of `CASE_KEYS` for each SNR."""
        for chunk in self.link.chunks(slots):
            shape = chunk.grid.shape
            noise = (self._rng.standard_normal(shape) + 1j * self._rng.standard_normal(shape)) / np.sqrt(2)
            for snr_db in self.snrs_db:
                deviation = np.sqrt(self.link.boost * 10 ** (-snr_db / 10))
                grid = chunk.grid + deviation * noise
                self._receive(snr_db, chunk, grid)
                self._ask_sionna(snr_db, chunk, grid)
            progress(chunk.first + len(chunk.grid))
        return [self._row(snr_db, warm_up) for snr_db in self.snrs_db]

    def _receive(self, snr_db: int, chunk: Chunk, grid: Complex) -> None:
        """Our estimates and the genie's of a chunk."""
        link, tally = self.link, self.tallies[snr_db]
        times_s = (chunk.first + np.arange(len(grid))) * link.carrier.slot_s
        estimates = link.receive(self._estimators[snr_db], grid, times_s)
        for index in range(len(grid)):
            tally.energy.append(squared(chunk.middle[index]))
            tally.genie.append(
                sum(
                    squared(genie.estimate(link.over_pilots(group, grid[index])) - link.of(group.ports, chunk, index))
                    for group, genie in zip(link.groups, self._genies[snr_db], strict=True)
                )
            )
            pairs = [(stream, found[index]) for stream, found in zip(link.plan.streams, estimates, strict=True)]
            told = [(stream, found) for stream, found in pairs if isinstance(found, SlotEstimate)]
            tally.refused.append(len(told) < len(pairs))
            self._compare(tally, chunk, index, told, 10 ** (-snr_db / 10))

    def _compare(
        self, tally: Tally, chunk: Chunk, index: int, told: list[tuple[Stream, SlotEstimate]], noise_power: float
    ) -> None:
        """What was told of a slot with what is true."""
        link = self.link
        error = reported = pilot_energy = ls = 0.0
        snr_errors, confidence_errors = [0.0], [0.0]
        for stream, found in told:
            truth = link.of(stream.ports, chunk, index)
            error += squared(found.cfr - truth)
            reported += float(found.error_power.sum()) * truth[0].size
            powers = np.mean(np.abs(truth) ** 2, axis=(1, 2))
            # Streams of several symbols in a span are averages of these.
            true_db = 10 * np.log10(powers / noise_power * stream.span)
            snr_errors += list(found.snr_db - true_db)
            share = powers.sum() / (powers.sum() + noise_power / stream.span)
            confidence_errors.append(abs(found.confidence - float(share)))
            for layer, cover in zip(link.layers_of(stream.ports), stream.covers, strict=True):
                pilots = link.at_pilots(chunk, stream.ports[0])[index][:, layer]
                ls += squared(despread(link, stream, cover, found.ls) - pilots)
                pilot_energy += squared(pilots)
        tally.lmmse.append(error)
        tally.reported.append(reported)
        tally.pilot_energy.append(pilot_energy)
        tally.ls.append(ls)
        tally.snr_error_db.append(float(np.mean(snr_errors[1:] or [0.0])))
        tally.confidence_error.append(float(np.mean(confidence_errors[1:] or [0.0])))

    def _ask_sionna(self, snr_db: int, chunk: Chunk, grid: Complex) -> None:
        """Sionna's estimates of a chunk, at the pilots and interpolated to the DMRS symbols' middle."""
        import torch

        link, tally = self.link, self.tallies[snr_db]
        count, antennas, _, tones = grid.shape
        whole = np.zeros((count, 1, antennas, SYMBOLS_PER_SLOT, tones), np.complex64)
        whole[:, 0, :, list(link.symbols)] = grid.transpose(2, 0, 1, 3)
        noise = torch.tensor(link.boost * 10 ** (-snr_db / 10), dtype=torch.float32)
        for name, oracle in self._oracles.items():
            found = oracle(torch.tensor(whole), noise)[0][:, 0].flatten(2, 3).numpy()  # [B, A, L, 14, S]
            below, weight = link.middle_symbol
            middle = (1 - weight) * found[:, :, :, below] + weight * found[:, :, :, below + 1]
            tally.oracle[name] += list(np.sum(np.abs(middle - chunk.middle) ** 2, axis=(1, 2, 3)))
            if name == "nn":
                errors = np.zeros(count)
                for group in link.groups:
                    layers = link.layers_of(group.ports)
                    seen = found[:, :, layers][:, :, :, list(group.symbols)][..., group.subcarriers]
                    truth = link.at_pilots(chunk, group.ports[0])[:, :, layers]
                    errors += np.sum(np.abs(seen - truth) ** 2, axis=(1, 2, 3, 4))
                tally.oracle["ls"] += list(errors)

    def _row(self, snr_db: int, warm_up: int) -> dict[str, Any]:
        case, tally = self.case, self.tallies[snr_db]
        refused = np.array(tally.refused)
        used = np.flatnonzero(~refused & (np.arange(len(refused)) >= warm_up))
        if len(used) < 2 * _BLOCK:
            raise UsageRefused(f"{len(used)} slots", where=f"{case.channel} at {snr_db} dB", mend="take more slots")

        def of(values: list[float]) -> Real:
            return np.array(values)[used]

        energy = of(tally.energy)
        interpolated = {name: decibel(of(tally.oracle[name]), energy) for name in INTERPOLATIONS}
        best = min(interpolated, key=lambda name: interpolated[name])
        lmmse, genie = of(tally.lmmse), of(tally.genie)
        nmse_db, gap_db = decibel(lmmse, energy), decibel(lmmse, genie)
        row = {
            "channel": case.channel,
            "delay_spread_ns": case.delay_spread_ns,
            "prbs": case.prbs,
            "layers": case.layers,
            "users": case.users,
            "antennas": case.antennas,
            "dmrs": case.dmrs,
            "speed_mps": case.speed_mps,
            "snr_db": snr_db,
            "slots": len(used),
            "refused": float(np.mean(refused[warm_up:])),
            "ls_nmse_db": decibel(of(tally.ls), of(tally.pilot_energy)),
            "sionna_ls_nmse_db": decibel(of(tally.oracle["ls"]), of(tally.pilot_energy)),
            "interpolated_nmse_db": interpolated[best],
            "interpolation": best,
            "lmmse_nmse_db": nmse_db,
            "ci_db": interval_db(lmmse, energy),
            "genie_nmse_db": decibel(genie, energy),
            "gain_db": interpolated[best] - nmse_db,
            "gap_db": gap_db,
            "gap_ci_db": interval_db(lmmse, genie),
            "learning_gap_db": learning(refused, np.array(tally.lmmse), np.array(tally.genie)),
            "error_power_db": decibel(of(tally.reported), lmmse),
            "snr_bias_db": float(np.mean(of(tally.snr_error_db))),
            "snr_std_db": float(np.std(of(tally.snr_error_db))),
            "confidence_error": float(np.mean(of(tally.confidence_error))),
        }
        assert row.keys() == CASE_KEYS.keys()
        return row


def decibel(part: Real, whole: Real) -> float:
    """Ratio of the sums."""
    return float(10 * np.log10(np.sum(part) / np.sum(whole)))


def interval_db(part: Real, whole: Real) -> float:
    """Half of the 95 % confidence interval of `decibel`, by bootstrap over blocks of slots."""
    count = len(part) // _BLOCK
    parts, wholes = (values[: count * _BLOCK].reshape(count, _BLOCK).sum(axis=1) for values in (part, whole))
    drawn = np.random.default_rng(0).integers(0, count, (_DRAWS, count))
    ratios = 10 * np.log10(parts[drawn].sum(axis=1) / wholes[drawn].sum(axis=1))
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(high - low) / 2


def learning(refused: npt.NDArray[np.bool_], lmmse: Real, genie: Real) -> list[float | None]:
    """Gap to the genie over the run's first slots, then over twice as many and so on."""
    edges = [0, *(2**power for power in range(20) if 2**power < len(refused)), len(refused)]
    gaps: list[float | None] = []
    for begin, end in pairwise(edges):
        kept = ~refused[begin:end]
        gaps.append(decibel(lmmse[begin:end][kept], genie[begin:end][kept]) if kept.any() else None)
    return gaps


def run_bench(*, quick: bool = False, seed: int = 1, progress: Progress = lambda done, total: None) -> dict[str, Any]:
    """All of it. Raises UsageRefused where Sionna is not installed."""
    try:
        import sionna.phy
        import torch
    except ImportError as error:
        raise UsageRefused(str(error), where="bench estimation", mend="install the extra `train`") from None
    from experiments.estimation_checks import accuracy, chain, refusals

    torch.set_num_threads(1)
    sionna.phy.config.device = "cpu"
    cases, snrs_db = (QUICK_CASES, QUICK_SNRS_DB) if quick else (CASES, SNRS_DB)
    slots, warm_up = (240, 120) if quick else (600, 200)
    total = slots * len(cases)
    rows: list[dict[str, Any]] = []
    for number, case in enumerate(cases):
        bench = Bench(case, snrs_db, seed + number)
        rows += bench.run(slots, warm_up, lambda done, before=number * slots: progress(before + done, total))
    wrong = refusals(seed, slots=60 if quick else 400)
    return {
        "seed": seed,
        "quick": quick,
        "cases": rows,
        "refusals": wrong,
        "accuracy": accuracy(seed, slots=150 if quick else 600, few=quick),
        "chain": chain(seed, frames=30 if quick else 80),
        "summary": summary(rows, wrong),
    }
