"""Intel 5300 logs: every packet is what csiread makes of it, and no byte of a log does worse than be left out."""

from __future__ import annotations

import itertools
import struct
from pathlib import Path

import csiread
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest import wire
from ingest.errors import InputRefused
from ingest.messages import ChannelFrame
from ingest.sources import IntelCsiSource, open_source
from ingest.sources.wifi import TONES_20_MHZ, TONES_40_MHZ

LOG = Path("wifi-csi") / "intel5300_0x5_64_3000.dat"
SHAPES = list(itertools.product((1, 2, 3), (1, 2, 3)))


def random_csi(rng: np.random.Generator, antennas: int, streams: int) -> npt.NDArray[np.int8]:
    """[subcarrier, antenna, stream, real and imaginary part]"""
    return rng.integers(-128, 128, (30, antennas, streams, 2)).astype(np.int8)


def packed(csi: npt.NDArray[np.int8]) -> bytes:
    """Bit by bit as the NIC lays it down: three unused bits, then the numbers of a subcarrier, lowest bit first."""
    bits: list[int] = []
    for subcarrier in csi.reshape(30, -1):
        bits += [0, 0, 0]
        for number in subcarrier:
            bits += [(int(number) >> place) & 1 for place in range(8)]
    bits += [0] * (-len(bits) % 8)
    return bytes(sum(bit << place for place, bit in enumerate(bits[n : n + 8])) for n in range(0, len(bits), 8))


def report(
    csi: npt.NDArray[np.int8],
    *,
    timer: int = 0,
    rssi: tuple[int, int, int] = (40, 35, 38),
    noise: int = -90,
    agc: int = 30,
    order: tuple[int, ...] = (0, 1, 2),
    rate: int = 0x101,
    antennas: int | None = None,
    streams: int | None = None,
    csi_bytes: int | None = None,
) -> bytes:
    """The payload of a beamforming report; antennas, streams and csi_bytes may be made to lie."""
    data = packed(csi)
    head = struct.pack("<IHH", timer, 7, 0)
    head += bytes([csi.shape[1] if antennas is None else antennas, csi.shape[2] if streams is None else streams])
    head += bytes(rssi) + struct.pack("<bB", noise, agc)
    head += bytes([sum(chain << 2 * place for place, chain in enumerate(order))])
    return head + struct.pack("<HH", len(data) if csi_bytes is None else csi_bytes, rate) + data


def record(payload: bytes, code: int = 0xBB) -> bytes:
    return struct.pack(">H", 1 + len(payload)) + bytes([code]) + payload


def log(folder: Path, *records: bytes) -> Path:
    path = folder / "log.dat"
    path.write_bytes(b"".join(records))
    return path


def frames(source: IntelCsiSource) -> list[ChannelFrame]:
    found = list(source)
    for frame in found:
        assert isinstance(wire.decode([bytes(part) for part in wire.encode(frame)]), ChannelFrame)
    return found


def by_csiread(path: Path) -> npt.NDArray[np.complex128]:
    """[packet, subcarrier, antenna, stream] by the package that everybody uses."""
    theirs = csiread.Intel(str(path), nrxnum=3, ntxnum=3, pl_size=0, if_report=False)
    theirs.read()
    return np.asarray(theirs.get_scaled_csi())


@pytest.mark.data
def test_the_recorded_log_as_csiread_reads_it(data: Path) -> None:
    source = open_source(str(data / LOG))
    assert isinstance(source, IntelCsiSource)
    found = frames(source)
    assert (len(found), source.info.samples, source.info.antennas) == (2998, 2998, 3)
    assert not source.rejected
    ours = np.array([frame.cfr[0] for frame in found])
    theirs = by_csiread(data / LOG)[:, :, :3, 0].transpose(0, 2, 1)
    np.testing.assert_allclose(ours, theirs, rtol=2e-7)
    snr_db = 10 * np.log10((np.abs(theirs) ** 2).mean((1, 2)))
    np.testing.assert_allclose([frame.snr_db for frame in found], snr_db, atol=1e-5)
    assert all(frame.noise_power == 1.0 for frame in found)
    assert [frame.seq for frame in found] == list(range(2998))
    times = [frame.t_ns for frame in found]
    assert times == sorted(times)
    assert times[0] == 0
    assert {frame.user for frame in found} == {"tx0"}
    np.testing.assert_array_equal(found[0].tones_hz, TONES_20_MHZ)


@pytest.mark.parametrize(("antennas", "streams"), SHAPES)
@pytest.mark.parametrize("noise", [-127, -92, -70])
def test_every_shape_as_csiread_reads_it(
    antennas: int, streams: int, noise: int, tmp_path: Path, rng: np.random.Generator
) -> None:
    order = tuple(int(chain) for chain in rng.permutation(antennas))
    packets = [report(random_csi(rng, antennas, streams), noise=noise, order=order) for _ in range(4)]
    path = log(tmp_path, *map(record, packets))
    found = frames(IntelCsiSource(path))
    theirs = by_csiread(path)
    assert [(frame.block, frame.user) for frame in found] == [(n, f"tx{k}") for n in range(4) for k in range(streams)]
    for frame in found:
        expected = theirs[frame.block, :, :antennas, int(frame.user[2:])].T
        np.testing.assert_allclose(frame.cfr[0], expected, rtol=2e-7)


def test_scaling_by_hand(tmp_path: Path) -> None:
    """One antenna at -44 - 30 + 44 = -30 dBm, thermal noise far below: what is left is the rounding noise of 1."""
    csi = np.zeros((30, 1, 1, 2), np.int8)
    csi[..., 0], csi[..., 1] = 3, -4
    (frame,) = frames(IntelCsiSource(log(tmp_path, record(report(csi, rssi=(44, 0, 0), noise=-126)))))
    np.testing.assert_allclose(frame.cfr, np.full((1, 1, 30), 3 - 4j), rtol=1e-6)
    assert frame.snr_db == pytest.approx(10 * np.log10(25))
    # At -90 dBm received and -90 dBm of noise: |h|^2 = 1 over noise 1 + 1/25 of rounding.
    (frame,) = frames(IntelCsiSource(log(tmp_path, record(report(csi, rssi=(14, 0, 0), agc=60, noise=-90)))))
    np.testing.assert_allclose(np.abs(frame.cfr) ** 2, 1 / (1 + 1 / 25), rtol=1e-6)


def test_packets_of_both_bandwidths(tmp_path: Path, rng: np.random.Generator) -> None:
    packets = [report(random_csi(rng, 2, 1), rate=rate) for rate in (0x101, 0x901)]
    narrow, wide = frames(IntelCsiSource(log(tmp_path, *map(record, packets))))
    np.testing.assert_array_equal(narrow.tones_hz, TONES_20_MHZ)
    np.testing.assert_array_equal(wide.tones_hz, TONES_40_MHZ)


def test_tones_of_the_standard() -> None:
    """IEEE 802.11n-2009 table 7-25f, written out."""
    narrow = "-28 -26 -24 -22 -20 -18 -16 -14 -12 -10 -8 -6 -4 -2 -1 1 3 5 7 9 11 13 15 17 19 21 23 25 27 28"
    wide = "-58 -54 -50 -46 -42 -38 -34 -30 -26 -22 -18 -14 -10 -6 -2 2 6 10 14 18 22 26 30 34 38 42 46 50 54 58"
    np.testing.assert_array_equal(TONES_20_MHZ, 312.5e3 * np.array(narrow.split(), float))
    np.testing.assert_array_equal(TONES_40_MHZ, 312.5e3 * np.array(wide.split(), float))


def test_the_timer_wraps(tmp_path: Path, rng: np.random.Generator) -> None:
    timers = [2**32 - 100, 2**32 - 50, 20, 2**32 - 10, 70]  # the fourth came late
    packets = [report(random_csi(rng, 1, 1), timer=timer) for timer in timers]
    found = frames(IntelCsiSource(log(tmp_path, *map(record, packets))))
    assert [frame.t_ns for frame in found] == [0, 50_000, 120_000, 120_000, 170_000]


def test_other_records_are_passed_over(tmp_path: Path, rng: np.random.Generator) -> None:
    packet = record(report(random_csi(rng, 3, 1)))
    other = [record(bytes(40), 0xC1), record(bytes(65_534), 0xC1), record(b"", 0xBB)[:2] + b"\0", b"\0\0"]
    source = IntelCsiSource(log(tmp_path, *other, packet, *other, packet, *other))
    assert [frame.seq for frame in frames(source)] == [0, 1]
    assert not source.rejected


@pytest.mark.parametrize("kept", [1, 2, 3, 10, 100])
def test_a_log_that_ends_inside_a_record(kept: int, tmp_path: Path, rng: np.random.Generator) -> None:
    packet = record(report(random_csi(rng, 3, 1)))
    source = IntelCsiSource(log(tmp_path, packet, packet, packet[:kept]))
    assert len(frames(source)) == 2
    assert dict(source.rejected) == {"truncated_end": 1}


@pytest.mark.parametrize(
    ("name", "lies"),
    [
        ("four antennas", {"antennas": 4}),
        ("no antenna", {"antennas": 0}),
        ("255 streams", {"streams": 255}),
        ("one antenna less", {"antennas": 2}),
        ("a longer channel", {"csi_bytes": 193}),
        ("a shorter channel", {"csi_bytes": 0}),
        ("an antenna twice", {"order": (0, 1, 1)}),
        ("a fourth chain", {"order": (3, 1, 2)}),
    ],
)
def test_a_packet_that_contradicts_itself(
    name: str, lies: dict[str, int], tmp_path: Path, rng: np.random.Generator
) -> None:
    good = record(report(random_csi(rng, 3, 1)))
    bad = record(report(random_csi(rng, 3, 1), **lies))
    source = IntelCsiSource(log(tmp_path, good, bad, good))
    assert [frame.seq for frame in frames(source)] == [0, 1]
    assert dict(source.rejected) == {"damaged": 1}


@pytest.mark.parametrize("length", [0, 1, 19, 20, 21, 211, 213, 1023, 1024, 5000, 65_534])
def test_a_packet_of_the_wrong_length(length: int, tmp_path: Path, rng: np.random.Generator) -> None:
    """Beyond 1024 bytes csiread writes past its buffer."""
    payload = report(random_csi(rng, 3, 1))
    good, bad = record(payload), record((payload + bytes(65_536))[:length])
    source = IntelCsiSource(log(tmp_path, good, bad, good))
    assert len(frames(source)) == 2
    assert dict(source.rejected) == {"damaged": 1}


def test_packets_without_any_power_or_with_fewer_antennas(tmp_path: Path, rng: np.random.Generator) -> None:
    silent = record(report(np.zeros((30, 3, 2, 2), np.int8)))
    unmeasured = record(report(random_csi(rng, 3, 2), rssi=(0, 0, 0)))
    fewer = record(report(random_csi(rng, 2, 2)))
    good = record(report(random_csi(rng, 3, 2)))
    source = IntelCsiSource(log(tmp_path, silent, unmeasured, fewer, good))
    assert [(frame.seq, frame.user) for frame in frames(source)] == [(3, "tx0"), (3, "tx1")]
    assert dict(source.rejected) == {"no_power": 4, "antennas": 2}


@pytest.mark.parametrize("content", [record(bytes(40), 0xC1), b"\0" * 1000, b"\xbb\xbb\xbb", record(b"x" * 500)])
def test_a_log_without_a_packet(content: bytes, tmp_path: Path) -> None:
    path = log(tmp_path, content)
    with pytest.raises(InputRefused) as refusal:
        open_source(str(path), format_name="intel5300")
    assert refusal.value.exit_code == 3
    assert str(refusal.value).startswith(f"{path}: holds no CSI packet")


@pytest.mark.parametrize("kind", ["empty", "missing", "folder"])
def test_no_log_at_all(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "log.dat"
    if kind == "empty":
        path.touch()
    elif kind == "folder":
        path.mkdir()
    words = {"empty": "holds no CSI", "missing": "No such file", "folder": "Is a directory"}
    with pytest.raises(InputRefused) as refusal:
        IntelCsiSource(path)
    assert str(refusal.value).startswith(f"{path}: ")
    assert words[kind] in str(refusal.value)


@given(data=st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    rng = np.random.default_rng(5)
    content = bytearray(b"".join(record(report(random_csi(rng, 3, 1))) for _ in range(3)))
    for _ in range(data.draw(st.integers(0, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path = log(tmp_path_factory.getbasetemp(), bytes(content[: data.draw(st.integers(1, len(content)))]))
    try:
        count = len(frames(IntelCsiSource(path)))
    except InputRefused:
        count = 0
    assert count <= 9
