"""OAI's data recording application: its channel estimates become channel frames.

The fixture writes what the application writes (doc/data_recording.md of OpenAirInterface shows such a file): one slot's
grid per recording, subcarriers the faster index, 16-bit numbers as floats, the same estimate at both pilots of a pair.
No recording of a real gNB was at hand.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ingest.errors import InputRefused
from ingest.messages import ChannelFrame
from ingest.sources import Source, open_source

SUBCARRIERS, SYMBOLS, PILOTS = 600, 13, (0, 5, 10)
STAMP = "2025_06_19T11_19_00_037"


def detail() -> dict[str, Any]:
    return {
        "cell_id": 0, "cp_mode": "normal", "frame": 785, "link_direction": "uplink", "num_slots": 1,
        "pusch:num_ofdm_symbols": SYMBOLS, "pusch:num_prb": 50, "pusch:start_ofdm_symbol": 0, "pusch:start_prb": 0,
        "pusch_dmrs:antennna_port": 0, "pusch_dmrs:num_add_positions": 2, "pusch_dmrs:ofdm_symbol_idx": list(PILOTS),
        "pusch_dmrs:resource_map_config": "5g nr type 1", "rnti": 4660, "slot": 8, "subcarrier_spacing": 30000,
    }  # fmt: skip


def estimates(channel: npt.NDArray[np.complexfloating]) -> npt.NDArray[np.complex64]:
    """The grid [symbols, subcarriers] of a channel [symbols, pairs of pilots]: means written twice, in counts."""
    grid = np.zeros((SYMBOLS, SUBCARRIERS), np.complex64)
    for symbol in PILOTS:
        counts = np.round(channel[symbol] * 32768)
        grid[symbol, 0::4] = grid[symbol, 2::4] = counts
    return grid


def write(
    folder: Path,
    kind: str,
    data: npt.NDArray[Any],
    datatype: str = "cf32_le",
    change: Callable[[Any], None] | None = None,
) -> Path:
    """One recording as `write_recorded_data_to_sigmf` makes it."""
    stem = f"{kind}-rec-0-{STAMP}"
    data.tofile(folder / f"{stem}.sigmf-data")
    meta: dict[str, Any] = {
        "global": {
            "core:author": "A", "core:collection": f"data-collection-rec-0-{STAMP}", "core:datatype": datatype,
            "core:dataset": f"{stem}.sigmf-data", "core:num_channels": 1, "core:sample_rate": 61440000.0,
            "core:recorder": "NI Data Recording Application for OAI", "core:version": "1.2.1",
            "core:sha512": hashlib.sha512(data.tobytes()).hexdigest(), "core:hw": "USRP X410",
        },
        "captures": [{
            "core:datetime": "2025_06_19T11:19:00.037", "core:frequency": 3319680000.0, "core:sample_start": 0,
            "serialization:counts": [SUBCARRIERS, SYMBOLS], "serialization:scheme": ["subcarriers", "ofdm_symbols"],
        }],
        "annotations": [{
            "core:sample_count": data.size, "core:sample_start": 0, "num_transmitters": 1,
            "system_components:receiver": {"num_rx_antennas": 1, "bandwidth": 40000000.0},
            "system_components:transmitter": [
                {"signal:detail": {"5gnr": detail(), "standard": "5gnr"}, "transmitter_id": "tx_0"}
            ],
        }],
    }  # fmt: skip
    if change is not None:
        change(meta)
    path = folder / f"{stem}.sigmf-meta"
    path.write_text(json.dumps(meta))
    return path


def collection(folder: Path, metas: list[Path]) -> Path:
    listed = [
        {"name": meta.name.removesuffix(".sigmf-meta"), "hash": hashlib.sha512(meta.read_bytes()).hexdigest()}
        for meta in metas
    ]
    path = folder / f"data-collection-rec-0-{STAMP}.sigmf-collection"
    path.write_text(json.dumps({"collection": {"core:version": "1.2.1", "core:streams": listed}}))
    return path


def frames(source: Source) -> list[ChannelFrame]:
    return [message for message in source if isinstance(message, ChannelFrame)]


def a_channel(rng: np.random.Generator, noise: float = 0.0) -> npt.NDArray[np.complex128]:
    """Two taps over the pairs of pilots [symbols, pairs], and noise."""
    pairs = np.arange(SUBCARRIERS // 4)
    channel = 0.3 + 0.1j * np.exp(-2j * np.pi * pairs * 0.01)
    shape = (SYMBOLS, pairs.size)
    return channel + noise * (rng.normal(size=shape) + 1j * rng.normal(size=shape)) / np.sqrt(2)


def test_a_recorded_slot(tmp_path: Path, rng: np.random.Generator) -> None:
    channel = a_channel(rng)
    source = open_source(str(write(tmp_path, "raw-ce-fd-data", estimates(channel))))
    assert (source.info.format, source.info.antennas) == ("oai/channel-estimates", 1)
    found = frames(source)
    assert [frame.user for frame in found] == ["rnti4660"] * 3
    assert [frame.block for frame in found] == [785 * 20 + 8] * 3
    assert {frame.carrier_hz for frame in found} == {3.31968e9}
    assert found[0].t_ns == round((785 * 20 + 8) / 2000 * 1e9)
    assert found[1].t_ns - found[0].t_ns == round(5 / 14 / 2000 * 1e9)
    for frame, symbol in zip(found, PILOTS, strict=True):
        np.testing.assert_allclose(frame.cfr[0, 0], channel[symbol], atol=1 / 32768)
        # each pair stands at subcarriers 4 n and 4 n + 2, seen from the middle of the allocation
        np.testing.assert_allclose(frame.tones_hz, (4 * np.arange(150) + 1 - 299.5) * 30e3)


def test_the_noise_is_what_is_not_smooth(tmp_path: Path, rng: np.random.Generator) -> None:
    channel = a_channel(rng, noise=0.01)
    for frame in frames(open_source(str(write(tmp_path, "raw-ce-fd-data", estimates(channel))))):
        assert 10 * np.log10(frame.noise_power / 1e-4) == pytest.approx(0, abs=1.5)
        assert frame.snr_db == pytest.approx(30, abs=1.7)


def test_interpolated_estimates_stand_on_every_subcarrier(tmp_path: Path) -> None:
    grid = np.zeros((SYMBOLS, SUBCARRIERS), np.complex64)
    grid[list(PILOTS)] = 1000 + np.arange(SUBCARRIERS)
    found = frames(open_source(str(write(tmp_path, "raw-inter-ce-fd-data", grid))))
    assert [frame.cfr.shape for frame in found] == [(1, 1, SUBCARRIERS)] * 3
    np.testing.assert_allclose(found[0].cfr[0, 0], (1000 + np.arange(SUBCARRIERS)) / 32768)
    np.testing.assert_allclose(found[0].tones_hz, (np.arange(SUBCARRIERS) - 299.5) * 30e3)


def test_a_collection_holds_them_beside_other_things(tmp_path: Path, rng: np.random.Generator) -> None:
    grid = estimates(a_channel(rng))
    metas = [
        write(tmp_path, "rx-fd-data", grid),
        write(tmp_path, "raw-ce-fd-data", grid),
        write(tmp_path, "rx-payload-bits", np.ones(100, np.uint8), "ri8_le"),
    ]
    assert len(frames(open_source(str(collection(tmp_path, metas))))) == 3


def test_a_grid_is_not_taken_for_iq(tmp_path: Path, rng: np.random.Generator) -> None:
    path = write(tmp_path, "rx-fd-data", estimates(a_channel(rng)))
    with pytest.raises(InputRefused, match="not IQ"):
        open_source(str(path))


def test_symbols_without_estimates_are_counted(tmp_path: Path, rng: np.random.Generator) -> None:
    grid = estimates(a_channel(rng))
    grid[5] = 0
    grid[10, 4] = np.nan
    source = open_source(str(write(tmp_path, "raw-ce-fd-data", grid)))
    assert len(frames(source)) == 1
    assert dict(source.rejected) == {"no_estimate": 1, "non_finite": 1}


def test_a_cut_recording(tmp_path: Path, rng: np.random.Generator) -> None:
    path = write(tmp_path, "raw-ce-fd-data", estimates(a_channel(rng))[:-1])
    with pytest.raises(InputRefused, match="no grid of 13 symbols"):
        frames(open_source(str(path)))


def slot(meta: Any) -> dict[str, Any]:
    found: dict[str, Any] = meta["annotations"][0]["system_components:transmitter"][0]["signal:detail"]["5gnr"]
    return found


@pytest.mark.parametrize(
    "change",
    [
        lambda meta: meta["captures"][0].update({"serialization:counts": [600]}),
        lambda meta: meta["captures"][0].update({"serialization:counts": [600, 15]}),
        lambda meta: meta["captures"][0].update({"serialization:counts": [1e9, 13]}),
        lambda meta: meta["captures"][0].update({"serialization:counts": "many"}),
        lambda meta: meta["captures"][0].update({"serialization:scheme": ["bits"]}),
        lambda meta: meta["captures"][0].pop("core:frequency"),
        lambda meta: meta.update({"annotations": []}),
        lambda meta: meta["annotations"][0].pop("system_components:transmitter"),
        lambda meta: slot(meta).pop("pusch_dmrs:ofdm_symbol_idx"),
        lambda meta: slot(meta).update({"pusch_dmrs:ofdm_symbol_idx": [99]}),
        lambda meta: slot(meta).update({"pusch_dmrs:ofdm_symbol_idx": 3}),
        lambda meta: slot(meta).update({"subcarrier_spacing": 31000}),
        lambda meta: slot(meta).update({"subcarrier_spacing": "wide"}),
        lambda meta: slot(meta).update({"frame": -1}),
        lambda meta: slot(meta).update({"slot": 20}),
        lambda meta: slot(meta).update({"rnti": 1.5}),
        lambda meta: meta["global"].update({"core:datatype": "ci16_le"}),
    ],
)
def test_metadata_that_is_not_oais(change: Callable[[Any], None], tmp_path: Path, rng: np.random.Generator) -> None:
    path = write(tmp_path, "raw-ce-fd-data", estimates(a_channel(rng)), change=change)
    with pytest.raises(InputRefused) as refusal:
        frames(open_source(str(path)))
    assert "no channel estimate of OAI's" in str(refusal.value)
    assert "\n" not in str(refusal.value)
