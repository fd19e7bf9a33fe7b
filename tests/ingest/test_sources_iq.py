"""Raw IQ files: every format's numbers, blocks without a seam, and a plain word for every file that is none."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingest import wire
from ingest.errors import InputRefused, TwinbeamError, UsageRefused
from ingest.messages import IqBlock
from ingest.sources import IqFileSource, Source, open_source
from ingest.sources.iq_file import FORMATS, SUFFIXES, SampleFormat, Segment, iq_info
from ingest.sources.samples import InterleavedFile
from tests.random_channels import complex_normal

RATE_HZ = 1e6
CENTER_HZ = 3.5e9
BLOCK = 20_000  # 20 ms

WRITTEN_BY_HAND = {
    "cf32": (bytes.fromhex("0000803f 000000bf 00000000 0000c040"), [1 - 0.5j, 6j]),
    "cf64": (bytes.fromhex("000000000000f03f 000000000000e0bf"), [1 - 0.5j]),
    "sc16": (bytes.fromhex("0040 00c0 0080 ff7f 0100 0000"), [0.5 - 0.5j, -1 + 1j * 32767 / 32768, 1 / 32768]),
    "sc8": (bytes.fromhex("40 c0 80 7f 01 00"), [0.5 - 0.5j, -1 + 1j * 127 / 128, 1 / 128]),
}


def opened(path: Path, **options: Any) -> Source:
    return open_source(str(path), **({"rate_hz": RATE_HZ, "center_hz": CENTER_HZ} | options))


def read_file(path: Path, antennas: int = 1) -> IqFileSource:
    """`path` without a look at it first."""
    reader = InterleavedFile(path, FORMATS["cf32"], antennas)
    segments = (Segment(0, CENTER_HZ),)
    return IqFileSource(reader, segments, iq_info("raw-iq/cf32", str(path), reader, RATE_HZ, segments))


def blocks(source: Source) -> list[IqBlock]:
    found = list(source)
    assert all(isinstance(block, IqBlock) for block in found)
    return found


def refused(path: Path, kind: type[TwinbeamError], *words: str, **options: Any) -> None:
    """Opening `path` raises exactly `kind`, in one line that begins with the file and has all `words`."""
    with pytest.raises(TwinbeamError) as refusal:
        opened(path, **options)
    assert type(refusal.value) is kind
    text = str(refusal.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    for word in words:
        assert word in text


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_numbers_of_every_format(name: str, tmp_path: Path) -> None:
    data, expected = WRITTEN_BY_HAND[name]
    path = tmp_path / "capture.bin"
    path.write_bytes(data)
    (block,) = blocks(opened(path, format_name=name))
    assert block.samples.dtype == np.complex64
    np.testing.assert_array_equal(block.samples, np.array([expected], np.complex64))


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
@pytest.mark.parametrize("change_case", [str.lower, str.upper])
def test_the_suffix_tells_the_format(suffix: str, change_case: Any, tmp_path: Path) -> None:
    data, expected = WRITTEN_BY_HAND[SUFFIXES[suffix]]
    path = tmp_path / f"capture{change_case(suffix)}"
    path.write_bytes(data)
    source = opened(path)
    assert source.info.format == f"raw-iq/{SUFFIXES[suffix]}"
    np.testing.assert_array_equal(blocks(source)[0].samples, np.array([expected], np.complex64))


def test_the_option_overrules_the_suffix(tmp_path: Path) -> None:
    data, expected = WRITTEN_BY_HAND["sc16"]
    path = tmp_path / "capture.cf32"
    path.write_bytes(data)
    np.testing.assert_array_equal(blocks(opened(path, format_name="sc16"))[0].samples[0], np.complex64(expected))


@pytest.mark.parametrize("component", [">f4", ">f8", ">i2"])
def test_big_endian_components(component: str) -> None:
    values = np.array([[1, -2], [3, 4]])
    read = SampleFormat("test", component, 2.0).to_complex64(values.astype(component))
    np.testing.assert_array_equal(read, [0.5 - 1j, 1.5 + 2j])


@pytest.mark.parametrize(
    ("samples", "lengths"),
    [
        (1, [1]),
        (BLOCK - 1, [BLOCK - 1]),
        (BLOCK, [BLOCK]),
        (BLOCK + 1, [BLOCK, 1]),
        (3 * BLOCK + 7, [BLOCK, BLOCK, BLOCK, 7]),
    ],
)
def test_blocks_without_a_seam(samples: int, lengths: list[int], tmp_path: Path, rng: np.random.Generator) -> None:
    recorded = complex_normal(rng, samples).astype(np.complex64)
    path = tmp_path / "capture.cf32"
    recorded.tofile(path)
    source = opened(path)
    found = blocks(source)
    assert [block.samples.shape[1] for block in found] == lengths
    assert [block.first_sample for block in found] == [BLOCK * n for n in range(len(lengths))]
    assert [block.t_ns for block in found] == [20_000_000 * n for n in range(len(lengths))]
    assert [block.seq for block in found] == list(range(len(lengths)))
    np.testing.assert_array_equal(np.concatenate([block.samples for block in found], axis=1), recorded[None])
    assert source.info.samples == samples
    assert not source.rejected


def test_blocks_say_what_they_are_and_travel(tmp_path: Path) -> None:
    path = tmp_path / "capture.cf32"
    np.ones(10, np.complex64).tofile(path)
    (block,) = blocks(opened(path, rate_hz=46.08e6, center_hz=3.5028e9))
    assert (block.rate_hz, block.center_hz, block.source, block.epoch) == (46.08e6, 3.5028e9, "file", 0)
    assert isinstance(wire.decode([bytes(part) for part in wire.encode(block)]), IqBlock)


def test_a_rate_of_one_sample_a_second(tmp_path: Path) -> None:
    np.arange(3).astype(np.complex64).tofile(tmp_path / "slow.cf32")
    found = blocks(opened(tmp_path / "slow.cf32", rate_hz=1.0, center_hz=0.0))
    assert [(block.t_ns, block.samples.shape[1]) for block in found] == [(n * 10**9, 1) for n in range(3)]


def test_two_channels_side_by_side(tmp_path: Path) -> None:
    recorded = np.arange(2 * BLOCK + 6).astype(np.complex64)
    recorded.tofile(tmp_path / "capture.cf32")
    source = read_file(tmp_path / "capture.cf32", antennas=2)
    found = blocks(source)
    assert [block.samples.shape for block in found] == [(2, BLOCK), (2, 3)]
    np.testing.assert_array_equal(np.concatenate([block.samples for block in found], axis=1), recorded.reshape(-1, 2).T)
    assert all(block.samples.flags.c_contiguous for block in found)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, complex(0, np.nan)])
@pytest.mark.parametrize("name", ["cf32", "cf64"])
def test_a_block_with_a_number_that_is_none_is_dropped_and_counted(name: str, poison: complex, tmp_path: Path) -> None:
    recorded = np.ones(3 * BLOCK, np.complex64 if name == "cf32" else np.complex128)
    recorded[BLOCK + 5] = poison
    path = tmp_path / f"capture.{name}"
    recorded.tofile(path)
    source = opened(path)
    assert [block.first_sample for block in blocks(source)] == [0, 2 * BLOCK]
    assert dict(source.rejected) == {"non_finite": 1}


def test_a_number_beyond_single_precision_is_none(tmp_path: Path) -> None:
    recorded = np.ones(2 * BLOCK, np.complex128)
    recorded[3] = 1e200
    recorded[BLOCK] = 1e-200  # too small is merely zero
    recorded.tofile(tmp_path / "capture.cf64")
    source = opened(tmp_path / "capture.cf64")
    (block,) = blocks(source)
    assert block.first_sample == BLOCK
    assert block.samples[0, 0] == 0
    assert dict(source.rejected) == {"non_finite": 1}


def test_a_file_of_zeros_is_a_capture(tmp_path: Path) -> None:
    (tmp_path / "silence.sc8").write_bytes(bytes(100))
    assert not blocks(opened(tmp_path / "silence.sc8"))[0].samples.any()


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "capture.cf32").touch()
    refused(tmp_path / "capture.cf32", InputRefused, "is empty")
    with pytest.raises(InputRefused, match="is empty"):
        read_file(tmp_path / "capture.cf32")


@pytest.mark.parametrize(("name", "size"), [("cf32", 12), ("cf64", 8), ("sc16", 6), ("sc8", 3), ("cf32", 8001)])
def test_a_file_that_ends_inside_a_sample(name: str, size: int, tmp_path: Path) -> None:
    (tmp_path / f"capture.{name}").write_bytes(bytes(size))
    refused(tmp_path / f"capture.{name}", InputRefused, f"{size} bytes", name, "truncated")


def test_an_unknown_suffix(tmp_path: Path) -> None:
    (tmp_path / "capture.wav").write_bytes(b"RIFF1234")
    refused(tmp_path / "capture.wav", InputRefused, "unknown format", "--format", "cf32", "sc16")


def test_an_unknown_format(tmp_path: Path) -> None:
    (tmp_path / "capture.cf32").write_bytes(bytes(8))
    refused(tmp_path / "capture.cf32", UsageRefused, "unknown format 'cf16'", "--format", format_name="cf16")


@pytest.mark.parametrize(("option", "name"), [("rate_hz", "--rate-hz"), ("center_hz", "--center-hz")])
def test_what_a_raw_file_does_not_hold_must_be_told(option: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "capture.cf32").write_bytes(bytes(8))
    refused(tmp_path / "capture.cf32", UsageRefused, f"needs {name}", **{option: None})


@pytest.mark.parametrize("rate_hz", [float("nan"), float("inf"), 0.0, -1e6, 0.5, 1e11])
def test_a_rate_that_no_radio_has(rate_hz: float, tmp_path: Path) -> None:
    (tmp_path / "capture.cf32").write_bytes(bytes(8))
    refused(tmp_path / "capture.cf32", UsageRefused, f"sample rate {rate_hz} Hz", rate_hz=rate_hz)


@pytest.mark.parametrize("center_hz", [float("nan"), float("inf"), -1.0, 1e13])
def test_a_frequency_that_no_radio_has(center_hz: float, tmp_path: Path) -> None:
    (tmp_path / "capture.cf32").write_bytes(bytes(8))
    refused(tmp_path / "capture.cf32", UsageRefused, f"frequency {center_hz} Hz", center_hz=center_hz)


def test_a_missing_file(tmp_path: Path) -> None:
    refused(tmp_path / "none.cf32", InputRefused, "no such file")


def test_a_directory(tmp_path: Path) -> None:
    (tmp_path / "capture.cf32").mkdir()
    refused(tmp_path / "capture.cf32", InputRefused, "is a directory")


def test_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "capture.cf32")
    refused(tmp_path / "capture.cf32", InputRefused, "not a regular file")


def test_a_file_that_goes_away(tmp_path: Path) -> None:
    with pytest.raises(InputRefused) as refusal:
        read_file(tmp_path / "gone.cf32")
    assert str(refusal.value) == f"{tmp_path / 'gone.cf32'}: cannot be read: No such file or directory"
