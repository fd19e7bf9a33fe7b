"""Atheros and PicoScenes logs: written here byte by byte from their descriptions, and held against csiread.

csiread 1.4.1 is an independent reader; where it is wrong (Atheros logs with several streams) that is shown.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ingest.errors import InputRefused
from ingest.messages import ChannelFrame
from ingest.sources import Source, open_source
from ingest.sources.wifi import ALL_TONES, TONES_20_MHZ

Whole = npt.NDArray[np.int64]


def frames(source: Source) -> list[ChannelFrame]:
    return [message for message in source if isinstance(message, ChannelFrame)]


def numbers(rng: np.random.Generator, bits: int, *shape: int) -> Whole:
    """Whole complex numbers of so many bits a component, [..., 2] real and imaginary."""
    return rng.integers(-(1 << bits - 1), 1 << bits - 1, (*shape, 2))


def bit_string(values: list[tuple[int, int]]) -> bytes:
    """(value, bits) pairs one after the other, least significant bit first."""
    text = "".join(format(value & (1 << bits) - 1, f"0{bits}b")[::-1] for value, bits in values)
    text += "0" * (-len(text) % 8)
    return bytes(int(text[at : at + 8][::-1], 2) for at in range(0, len(text), 8))


def packed_10_bit(csi: Whole) -> bytes:
    """csi [antenna, stream, tone, 2]: antennas run fastest, then streams, then tones; imaginary before real."""
    antennas, streams, tones, _ = csi.shape
    values = []
    for tone in range(tones):
        for stream in range(streams):
            for antenna in range(antennas):
                real, imag = (int(part) for part in csi[antenna, stream, tone])
                values += [(imag, 10), (real, 10)]
    return bit_string(values)


def atheros(
    csi: Whole, order: str = "<", time_us: int = 0, rssi: int = 40, payload: bytes = b"packet", pad: int = 0
) -> bytes:
    """One record of the Atheros CSI Tool."""
    antennas, streams, tones, _ = csi.shape
    data = packed_10_bit(csi) + bytes(pad)
    head = struct.pack(
        f"{order}QHHBBBBBBB4BH", time_us, len(data), 5200, 0, 0, 0x83, int(tones > 56), tones, antennas, streams,
        rssi, rssi, rssi, rssi, len(payload),
    )  # fmt: skip
    record = head + data + payload
    return struct.pack(order + "H", len(record)) + record


def aligned(frame: ChannelFrame, expected: npt.NDArray[np.complexfloating]) -> bool:
    """Whether the frame's channel [antenna, tone] is `expected` but for one real scale."""
    found = frame.cfr[0].astype(complex)
    scale = np.vdot(expected, found) / np.vdot(expected, expected)
    return bool(
        abs(scale.imag) < 1e-6 * scale.real and np.abs(found - scale * expected).max() < 1e-5 * np.abs(found).max()
    )


def complex_of(csi: Whole) -> npt.NDArray[np.complex128]:
    return np.asarray(csi[..., 0] + 1j * csi[..., 1], np.complex128)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("antennas", "streams", "tones"), [(3, 1, 56), (3, 2, 56), (1, 1, 114), (2, 3, 114)])
def test_an_atheros_log(
    order: str, antennas: int, streams: int, tones: int, tmp_path: Path, rng: np.random.Generator
) -> None:
    packets = [numbers(rng, 10, antennas, streams, tones) for _ in range(3)]
    log = tmp_path / "log.dat"
    log.write_bytes(b"".join(atheros(csi, order, 1000 * n, 20 + n) for n, csi in enumerate(packets)))
    source = open_source(str(log))
    assert (source.info.format, source.info.antennas, source.info.samples) == ("atheros", antennas, 3)
    found = frames(source)
    assert [frame.user for frame in found[:streams]] == [f"tx{stream}" for stream in range(streams)]
    for n, csi in enumerate(packets):
        for stream in range(streams):
            frame = found[n * streams + stream]
            assert aligned(frame, complex_of(csi[:, stream]))
            assert (frame.t_ns, frame.carrier_hz, frame.noise_power, frame.block) == (n * 1_000_000, 5.2e9, 1.0, n)
            np.testing.assert_array_equal(frame.tones_hz, ALL_TONES[tones])
        power = np.mean([np.mean(np.abs(found[n * streams + s].cfr) ** 2) for s in range(streams)])
        assert 10 * np.log10(power) == pytest.approx(20 + n, abs=0.1)
    assert not source.rejected


def test_csiread_reads_the_same_numbers_of_one_stream(tmp_path: Path, rng: np.random.Generator) -> None:
    csiread = pytest.importorskip("csiread")
    packets = [numbers(rng, 10, 3, 1, 56) for _ in range(4)]
    log = tmp_path / "log.dat"
    log.write_bytes(b"".join(atheros(csi) for csi in packets))
    theirs = csiread.Atheros(str(log), nrxnum=3, ntxnum=1, tones=56, if_report=False)
    theirs.read()
    for n, frame in enumerate(frames(open_source(str(log)))):
        np.testing.assert_array_equal(theirs.csi[n, :, :, 0].T, complex_of(packets[n][:, 0]))
        assert aligned(frame, theirs.csi[n, :, :, 0].T)


def test_csiread_takes_several_streams_in_another_order(tmp_path: Path, rng: np.random.Generator) -> None:
    """The tool's own reader (and every port of it) has antennas innermost; csiread 1.4.1 has streams innermost."""
    csiread = pytest.importorskip("csiread")
    csi = numbers(rng, 10, 3, 2, 56)
    (tmp_path / "log.dat").write_bytes(atheros(csi))
    theirs = csiread.Atheros(str(tmp_path / "log.dat"), nrxnum=3, ntxnum=2, tones=56, if_report=False)
    theirs.read()
    in_file = theirs.csi[0].reshape(56, 6)
    np.testing.assert_array_equal(in_file.reshape(56, 2, 3).transpose(2, 1, 0), complex_of(csi))
    assert not np.array_equal(theirs.csi[0].transpose(1, 2, 0), complex_of(csi))


def test_damaged_atheros_records_are_counted(tmp_path: Path, rng: np.random.Generator) -> None:
    whole = [atheros(numbers(rng, 10, 2, 1, 56)) for _ in range(8)]
    few_tones = bytearray(whole[2])
    few_tones[2 + 16] = 55
    many_antennas = bytearray(whole[3])
    many_antennas[2 + 17] = 200
    long_channel = bytearray(whole[4])
    long_channel[2 + 8 : 2 + 10] = b"\xff\xff"
    quiet = atheros(np.zeros((2, 1, 56, 2), int))
    other = atheros(numbers(rng, 10, 3, 1, 56))
    empty = struct.pack("<H", 25) + bytes(25)
    log = tmp_path / "log.dat"
    parts = [whole[0], whole[1], few_tones, many_antennas, long_channel, quiet, other, empty, whole[5], whole[6][:-1]]
    log.write_bytes(b"".join(bytes(part) for part in parts))
    source = open_source(str(log), format_name="atheros")
    assert len(frames(source)) == 3
    assert dict(source.rejected) == {"damaged": 3, "no_power": 1, "antennas": 1, "no_csi": 1, "truncated_end": 1}


def segment(name: bytes, version: int, content: bytes) -> bytes:
    body = bytes([len(name)]) + name + struct.pack("<H", version) + content
    return struct.pack("<I", len(body)) + body


def basic(version: int, time: int, rssi: int) -> bytes:
    """The segment RxSBasic in its three versions."""
    middle = {1: b"", 2: b"\1\0", 3: b"\1\0"}[version]
    head = struct.pack("<HQh", 0x9300, time, 5200) + (b"\0\0" if version == 3 else b"")
    packet = struct.pack("<HBHH" if version == 3 else "<BHH", *((20, 1, 20, 400) if version == 3 else (1, 20, 400)))
    return segment(
        b"RxSBasic", version, head + packet + bytes([4, 1, 0, 3]) + middle + struct.pack("<5b", -95, *[rssi] * 4)
    )


def csi_segment(
    version: int, device: int, tones: int, streams: int, antennas: int, data: bytes, extra: int = 0
) -> bytes:
    head = struct.pack("<H", device) + (b"\0" if version == 4 else b"") + struct.pack("<bH", 1, 20)
    head += struct.pack("<QQIHBBB", 5_200_000_000, 20_000_000, 312_500, tones, streams, antennas, extra)
    head += (struct.pack("<H", 1) if version >= 3 else b"") + b"\0"
    head += (struct.pack("<h", 0) if version >= 2 else b"") + struct.pack("<I", len(data))
    return segment(b"CSI", version, head + data)


def framed(*segments: bytes, behind: bytes = b"mpdu") -> bytes:
    body = struct.pack("<IHB", 0x20150315, 1, len(segments)) + b"".join(segments) + behind
    return struct.pack("<I", len(body)) + body


def atheros_data(csi: Whole) -> bytes:
    return packed_10_bit(csi)


def intel_data(csi: Whole) -> bytes:
    """csi [antenna, stream, 30, 2]: three bits before each tone, streams innermost, 8 bits a component."""
    values: list[tuple[int, int]] = []
    for tone in range(30):
        values.append((0, 3))
        for antenna in range(csi.shape[0]):
            for stream in range(csi.shape[1]):
                real, imag = (int(part) for part in csi[antenna, stream, tone])
                values += [(real, 8), (imag, 8)]
    data = bit_string(values)
    return data + bytes(60 * csi.shape[0] * csi.shape[1] + 12 - len(data))


def radio_data(csi: Whole, tones: npt.NDArray[np.int64]) -> bytes:
    values = complex_of(csi).transpose(2, 1, 0)
    head = b"BBv2\x03" + struct.pack("<3Q", *values.shape) + b"CD@C"
    return tones.astype("<i2").tobytes() + head + values.astype("<c16").tobytes()


def log_of(device: int, version: int, csi: Whole, basic_version: int = 1, extra: bytes = b"") -> bytes:
    tones = np.r_[np.arange(-26, 0), np.arange(1, 27)]
    data = {0x9300: atheros_data, 0x5300: intel_data}.get(device, lambda csi: radio_data(csi, tones))(csi)
    antennas, streams, count, _ = csi.shape
    return (
        framed(basic(basic_version, 7_000, 30), extra, csi_segment(version, device, count, streams, antennas, data))
        if extra
        else framed(basic(basic_version, 7_000, 30), csi_segment(version, device, count, streams, antennas, data))
    )


DEVICES = [(0x9300, 10, 3, 1, 56), (0x9300, 10, 2, 2, 114), (0x5300, 8, 3, 2, 30), (0x1234, 8, 1, 1, 52)]


@pytest.mark.parametrize("version", [1, 2, 3, 4])
@pytest.mark.parametrize(("device", "bits", "antennas", "streams", "tones"), DEVICES)
def test_a_picoscenes_log_of_every_device_and_version(
    device: int,
    bits: int,
    antennas: int,
    streams: int,
    tones: int,
    version: int,
    tmp_path: Path,
    rng: np.random.Generator,
) -> None:
    packets = [numbers(rng, bits, antennas, streams, tones) for _ in range(3)]
    log = tmp_path / "log.csi"
    log.write_bytes(b"".join(log_of(device, version, csi, min(version, 3)) for csi in packets))
    source = open_source(str(log))
    assert (source.info.format, source.info.antennas, source.info.samples) == ("picoscenes", antennas, 3)
    found = frames(source)
    expected = [complex_of(csi[:, stream]) for csi in packets for stream in range(streams)]
    assert len(found) == len(expected)
    assert all(aligned(frame, channel) for frame, channel in zip(found, expected, strict=True))
    assert found[0].carrier_hz == 5.2e9
    assert found[0].t_ns == 7_000 * (1 if device == 0x1234 else 1000)
    assert found[0].tones_hz.shape == (tones,)
    if device == 0x5300:
        np.testing.assert_array_equal(found[0].tones_hz, TONES_20_MHZ)
    power = np.mean([np.mean(np.abs(frame.cfr) ** 2) for frame in found[:streams]])
    assert 10 * np.log10(power) == pytest.approx(30, abs=1.5)


@pytest.mark.parametrize(("device", "bits", "antennas", "streams", "tones"), [row for row in DEVICES if row[-1] != 114])
def test_csiread_reads_the_same_of_picoscenes(
    device: int, bits: int, antennas: int, streams: int, tones: int, tmp_path: Path, rng: np.random.Generator
) -> None:
    csiread = pytest.importorskip("csiread")
    packets = [numbers(rng, bits, antennas, streams, tones) for _ in range(3)]
    log = tmp_path / "log.csi"
    log.write_bytes(b"".join(log_of(device, 2, csi) for csi in packets))
    theirs = csiread.Picoscenes(str(log), {"CSI": [tones, antennas, streams]}, if_report=False)
    theirs.read()
    found = frames(open_source(str(log)))
    for n in range(3):
        for stream in range(streams):
            assert aligned(found[n * streams + stream], theirs.raw["CSI"]["CSI"][n][:, :, stream].T)


def test_frames_that_are_not_read_are_counted_by_reason(tmp_path: Path, rng: np.random.Generator) -> None:
    csi = numbers(rng, 10, 2, 1, 56)
    good = log_of(0x9300, 2, csi)
    data = atheros_data(csi)
    parts = [
        good,
        good,
        framed(basic(1, 0, 30)),
        framed(basic(1, 0, 30), csi_segment(2, 0x2000, 56, 1, 2, data)),
        framed(basic(1, 0, 30), segment(b"CSI", 9, bytes(80))),
        framed(basic(1, 0, 30), csi_segment(2, 0x9300, 57, 1, 2, data)),
        framed(basic(1, 0, 30), csi_segment(2, 0x9300, 56, 1, 0, data)),
        framed(csi_segment(2, 0x5300, 30, 1, 200, bytes(100))),
        framed(csi_segment(2, 0x1234, 52, 1, 1, bytes(100))),
        framed(segment(b"CSI", 2, b"short")),
        framed(b"\xff\xff\xff\xff" + bytes(9)),
        log_of(0x9300, 2, numbers(rng, 10, 3, 1, 56)),
        log_of(0x9300, 2, np.zeros((2, 1, 56, 2), int)),
        good[:-3],
    ]
    log = tmp_path / "log.csi"
    log.write_bytes(b"".join(parts))
    source = open_source(str(log))
    assert len(frames(source)) == 2
    assert dict(source.rejected) == {
        "no_csi": 1, "device": 1, "unknown_version": 1, "damaged": 6, "antennas": 1, "no_power": 1, "truncated_end": 1,
    }  # fmt: skip


def test_a_radio_without_rssi_is_judged_by_smoothness(tmp_path: Path, rng: np.random.Generator) -> None:
    tones = np.r_[np.arange(-26, 0), np.arange(1, 27)]
    smooth = 0.01 * np.exp(2j * np.pi * tones * 0.001) + 1e-4 * (rng.normal(size=52) + 1j * rng.normal(size=52))
    matrix = b"BBv2\x03" + struct.pack("<3Q", 52, 1, 1) + b"CD@C" + smooth.astype("<c16").tobytes()
    data = tones.astype("<i2").tobytes() + matrix
    (tmp_path / "log.csi").write_bytes(framed(basic(1, 0, 0), csi_segment(1, 0x1234, 52, 1, 1, data)))
    (frame,) = frames(open_source(str(tmp_path / "log.csi")))
    assert frame.snr_db == pytest.approx(10 * np.log10(1e-4 / 2e-8), abs=2.5)


@pytest.mark.parametrize("kind", ["atheros", "picoscenes"])
@pytest.mark.parametrize("content", [b"\0", b"text that is no log", bytes(1000), b"\xff" * 1000])
def test_what_is_no_log(kind: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(content)
    with pytest.raises(InputRefused, match="holds no CSI"):
        open_source(str(tmp_path / "log"), format_name=kind)


def mutations(data: bytes, rng: np.random.Generator, count: int) -> Iterator[bytes]:
    """`data` with a few bytes changed, cut or repeated."""
    for _ in range(count):
        changed = bytearray(data)
        for place in rng.integers(0, len(data), rng.integers(1, 6)):
            changed[place] = int(rng.choice([0, 1, 255, rng.integers(256)]))
        cut = int(rng.integers(1, len(data) + 1))
        yield bytes(changed[:cut]) if rng.random() < 0.3 else bytes(changed)


def test_changed_bytes_never_do_worse_than_be_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    logs = {
        "atheros": b"".join(atheros(numbers(rng, 10, 2, 1, 56)) for _ in range(3)),
        "picoscenes": b"".join(log_of(device, 2, numbers(rng, 8, a, s, t)) for device, _, a, s, t in DEVICES),
    }
    refused = passed = 0
    for kind, data in logs.items():
        for changed in mutations(data, rng, 300):
            (tmp_path / "log").write_bytes(changed)
            try:
                for frame in frames(open_source(str(tmp_path / "log"), format_name=kind)):
                    assert np.isfinite(frame.cfr).all()
                passed += 1
            except InputRefused:
                refused += 1
    assert passed > 100
    assert refused
