"""Arrays: what NumPy, h5py and SciPy write is read, slice by slice, and nothing is unpickled or followed elsewhere."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
from scipy.io import savemat

from ingest.errors import InputRefused, TwinbeamError, UsageRefused
from ingest.messages import ChannelFrame, IqBlock
from ingest.nr.receiver import NrReceiver
from ingest.sources import IqFileSource, Source, open_source
from tests.random_channels import complex_normal

BLOCK = 20_000
Write = Callable[[Path, dict[str, Any]], Path]


def as_npz(folder: Path, arrays: dict[str, Any]) -> Path:
    np.savez(folder / "a.npz", **arrays)
    return folder / "a.npz"


def as_compressed_npz(folder: Path, arrays: dict[str, Any]) -> Path:
    np.savez_compressed(folder / "a.npz", **arrays)
    return folder / "a.npz"


def as_h5(folder: Path, arrays: dict[str, Any]) -> Path:
    with h5py.File(folder / "a.h5", "w") as file:
        for name, value in arrays.items():
            values = np.asarray(value)
            file[name] = np.char.encode(values, "utf-8") if values.dtype.kind == "U" else values
    return folder / "a.h5"


def as_mat(folder: Path, arrays: dict[str, Any]) -> Path:
    savemat(folder / "a.mat", arrays)
    return folder / "a.mat"


def as_mat_73(folder: Path, arrays: dict[str, Any]) -> Path:
    """HDF5 as MATLAB's -v7.3 lays it out: 512 bytes before it, axes reversed, complex numbers as real and imag."""
    path = folder / "a.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in arrays.items():
            values = np.atleast_2d(np.asarray(value))
            if values.dtype.kind == "c":
                pairs = np.empty(values.shape, [("real", values.real.dtype), ("imag", values.real.dtype)])
                pairs["real"], pairs["imag"] = values.real, values.imag
                values = pairs
            dataset = file.create_dataset(name, data=values.T)
            dataset.attrs["MATLAB_class"] = np.bytes_("double")
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\0\x02IM")
    return path


WRITERS = [as_npz, as_compressed_npz, as_h5, as_mat, as_mat_73]


def samples_of(source: Source) -> npt.NDArray[np.complex64]:
    assert isinstance(source, IqFileSource)
    return np.concatenate([block.samples for block in source], axis=1)


def frames(source: Source) -> list[ChannelFrame]:
    return [message for message in source if isinstance(message, ChannelFrame)]


def refused(path: Path, word: str, kind: type[TwinbeamError] = InputRefused, **options: Any) -> None:
    with pytest.raises(TwinbeamError) as refusal:
        for _ in open_source(str(path), **options):
            pass
    assert type(refusal.value) is kind, refusal.value
    assert word in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("antennas", [1, 3])
@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_iq(write: Write, antennas: int, dtype: Any, tmp_path: Path, rng: np.random.Generator) -> None:
    recorded = complex_normal(rng, antennas, 2 * BLOCK + 5).astype(dtype)
    source = open_source(str(write(tmp_path, {"iq": recorded, "rate_hz": 1e6, "center_hz": 3.5e9})))
    assert (source.info.antennas, source.info.samples) == (antennas, 2 * BLOCK + 5)
    assert (source.info.rate_hz, source.info.center_hz) == (1e6, 3.5e9)
    np.testing.assert_array_equal(samples_of(source), recorded.astype(np.complex64))


@pytest.mark.parametrize("write", [as_npz, as_h5])
def test_iq_of_one_axis_in_pairs_and_in_fortran_order(write: Write, tmp_path: Path, rng: np.random.Generator) -> None:
    line = complex_normal(rng, 50).astype(np.complex64)
    told = {"rate_hz": 1e6, "center_hz": 0.0}
    np.testing.assert_array_equal(samples_of(open_source(str(write(tmp_path, {"iq": line} | told))))[0], line)
    pairs = rng.integers(-32768, 32768, (2, 50, 2)).astype(np.int16)
    read = samples_of(open_source(str(write(tmp_path, {"iq": pairs} | told))))
    np.testing.assert_array_equal(read, (pairs[..., 0] + 1j * pairs[..., 1]) / 32768)
    read = samples_of(open_source(str(write(tmp_path, {"iq": pairs[0]} | told))))
    np.testing.assert_array_equal(read[0], (pairs[0, :, 0] + 1j * pairs[0, :, 1]) / 32768)
    columns = np.asfortranarray(complex_normal(rng, 3, BLOCK + 7).astype(np.complex64))
    np.testing.assert_array_equal(samples_of(open_source(str(write(tmp_path, {"iq": columns} | told)))), columns)


@pytest.mark.parametrize("write", WRITERS)
def test_gaps_are_counted_exactly(write: Write, tmp_path: Path) -> None:
    arrays = {"iq": np.ones((2, 30), complex), "rate_hz": 1e6, "center_hz": 1e9, "gaps": np.array([[10, 500], [25, 7]])}
    receiver = NrReceiver()
    found = [block for block in open_source(str(write(tmp_path, arrays))) if isinstance(block, IqBlock)]
    for block in found:
        list(receiver.process(block))
    assert [(block.first_sample, block.samples.shape) for block in found] == [
        (0, (2, 10)),
        (510, (2, 15)),
        (532, (2, 5)),
    ]
    assert receiver.gaps == 507


def test_rate_and_centre_from_the_caller(tmp_path: Path) -> None:
    path = as_npz(tmp_path, {"iq": np.ones((1, 5), complex)})
    assert open_source(str(path), rate_hz=1e6, center_hz=1e9).info.rate_hz == 1e6
    refused(path, "has no 'rate_hz'", UsageRefused)
    path = as_npz(tmp_path, {"iq": np.ones((1, 5), complex), "rate_hz": 1e6, "center_hz": 1e9})
    assert open_source(str(path), rate_hz=1e6).info.samples == 5
    refused(path, "--rate-hz 2e+06", UsageRefused, rate_hz=2e6)
    refused(path, "--center-hz", UsageRefused, center_hz=2e9)


CHANNELS = [as_npz, as_h5, as_mat, as_mat_73]


@pytest.mark.parametrize("write", CHANNELS)
def test_channels(write: Write, tmp_path: Path, rng: np.random.Generator) -> None:
    cfr = complex_normal(rng, 5, 4, 6)
    arrays = {
        "cfr": cfr, "tones_hz": np.arange(6) * 15e3, "noise_power": np.arange(1, 6) * 0.01, "carrier_hz": 3.5e9,
        "time_s": np.arange(5) * 0.5, "block": np.arange(5) * 10, "position_m": np.arange(15.0).reshape(5, 3),
    }  # fmt: skip
    source = open_source(str(write(tmp_path, arrays)))
    assert (source.info.format, source.info.antennas, source.info.samples) == ("array/cfr", 4, 5)
    found = frames(source)
    for n, frame in enumerate(found):
        np.testing.assert_array_equal(frame.cfr[0], cfr[n].astype(np.complex64))
        np.testing.assert_array_equal(frame.tones_hz, np.arange(6) * 15e3)
        assert (frame.user, frame.block, frame.t_ns) == ("u0", 10 * n, n * 500_000_000)
        assert frame.noise_power == pytest.approx(0.01 * (n + 1))
        assert frame.position_m == (3.0 * n, 3.0 * n + 1, 3.0 * n + 2)
        assert frame.carrier_hz == 3.5e9
        expected_db = 10 * np.log10(np.mean(np.abs(cfr[n]) ** 2) / frame.noise_power)
        assert frame.snr_db == pytest.approx(expected_db, abs=1e-5)


@pytest.mark.parametrize("write", [as_npz, as_h5])
def test_channels_of_several_users_at_once(write: Write, tmp_path: Path, rng: np.random.Generator) -> None:
    cfr = complex_normal(rng, 2, 3, 4, 6)
    position = np.arange(18.0).reshape(2, 3, 3)
    position[1, 2] = np.nan
    arrays = {"cfr": cfr, "tones_hz": np.arange(6.0), "noise_power": 0.1, "user": np.array(["anna", "b b", "c/d"]),
              "position_m": position, "t_ns": np.array([7, 2**62])}  # fmt: skip
    found = frames(open_source(str(write(tmp_path, arrays))))
    assert [(frame.user, frame.block, frame.t_ns) for frame in found] == [
        ("anna", 0, 7), ("b_b", 0, 7), ("c_d", 0, 7), ("anna", 1, 2**62), ("b_b", 1, 2**62), ("c_d", 1, 2**62),
    ]  # fmt: skip
    np.testing.assert_array_equal(found[4].cfr[0], cfr[1, 1].astype(np.complex64))
    assert found[4].position_m == (12.0, 13.0, 14.0)
    assert found[5].position_m is None


def test_noise_that_is_not_told_is_what_is_not_smooth(tmp_path: Path, rng: np.random.Generator) -> None:
    tones = np.arange(200)
    smooth = np.exp(-2j * np.pi * tones * np.array([[0.001], [0.002]]))[None]
    noisy = smooth + 0.1 * complex_normal(rng, 1, 2, 200)
    (frame,) = frames(open_source(str(as_npz(tmp_path, {"cfr": noisy, "tones_hz": tones * 1.0}))))
    assert frame.noise_power == pytest.approx(0.01, rel=0.4)


def test_rows_that_are_none_are_counted(tmp_path: Path) -> None:
    cfr = np.ones((4, 2, 3), complex)
    cfr[1, 0, 0] = np.nan
    cfr[2] = 0
    noise = np.array([1.0, 1.0, 1.0, -1.0])
    source = open_source(str(as_npz(tmp_path, {"cfr": cfr, "tones_hz": np.arange(3.0), "noise_power": noise})))
    assert len(frames(source)) == 1
    assert dict(source.rejected) == {"non_finite": 2, "no_power": 1}


GOOD = {"cfr": np.ones((2, 2, 3), complex), "tones_hz": np.arange(3.0)}
IQ = {"iq": np.ones((1, 4), complex), "rate_hz": 1e6, "center_hz": 1e9}


@pytest.mark.parametrize("write", [as_npz, as_h5, as_mat])
@pytest.mark.parametrize(
    ("arrays", "word"),
    [
        ({"x": np.ones(3)}, "neither 'iq' nor 'cfr'"),
        (GOOD | IQ, "both"),
        (GOOD | {"cfr": np.ones((2, 3))}, "'cfr' of shape"),
        (GOOD | {"cfr": np.ones((2, 2, 3))}, "'cfr' is of type"),
        (GOOD | {"tones_hz": np.arange(4.0)}, "'tones_hz'"),
        (GOOD | {"tones_hz": np.array([0, np.nan, 1])}, "finite 'tones_hz'"),
        ({"cfr": GOOD["cfr"]}, "finite 'tones_hz'"),
        (GOOD | {"noise_power": np.ones(3)}, "'noise_power'"),
        (GOOD | {"position_m": np.ones((2, 2))}, "'position_m'"),
        (GOOD | {"user": np.array(["a", "b", "c"])}, "'user'"),
        (GOOD | {"block": np.array(["a", "b"])}, "'block'"),
        (IQ | {"iq": np.ones((2, 2, 2, 2))}, "'iq' of shape"),
        (IQ | {"iq": np.ones((2, 5))}, "'iq' is real"),
        (IQ | {"rate_hz": np.ones(2)}, "'rate_hz' is no number"),
        (IQ | {"rate_hz": 1e6j}, "'rate_hz' is no number"),
        (IQ | {"rate_hz": -1.0}, "sample rate -1.0"),
        (IQ | {"center_hz": np.nan}, "centre frequency nan"),
        (IQ | {"gaps": np.ones(3)}, "'gaps' of shape"),
        (IQ | {"gaps": np.array([[9, 1]])}, "a gap of 1 at sample 9"),
        (IQ | {"gaps": np.array([[2, -1]])}, "a gap of -1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_arrays_that_do_not_do(write: Write, arrays: dict[str, Any], word: str, tmp_path: Path) -> None:
    refused(write(tmp_path, arrays), word)


def test_python_objects_are_never_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", cfr=np.array([{"a": 1}, None], object), tones_hz=np.arange(3.0))
    refused(tmp_path / "a.npz", "never loaded")


def test_an_npz_that_lies_about_its_length(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive, archive.open("iq.npy", "w") as member:
        header = {"descr": "<c8", "fortran_order": False, "shape": (1 << 20, 1 << 20)}
        np.lib.format.write_array_header_2_0(member, header)
        member.write(bytes(80))
    refused(tmp_path / "a.npz", "not as long as it says")


def test_hdf5_that_leads_elsewhere(tmp_path: Path) -> None:
    as_h5(tmp_path, IQ)
    (tmp_path / "secret.raw").write_bytes(bytes(64))
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["iq"] = h5py.ExternalLink(str(tmp_path / "a.h5"), "iq")
    refused(tmp_path / "b.h5", "no array of its own")
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["real"] = np.ones((1, 4), complex)
        file["iq"] = h5py.SoftLink("/real")
    refused(tmp_path / "c.h5", "no array of its own")
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file.create_dataset("iq", (1, 4), "<f8", external=[(str(tmp_path / "secret.raw"), 0, 32)])
    refused(tmp_path / "d.h5", "no array of its own")
    with h5py.File(tmp_path / "e.h5", "w") as file:
        file.create_group("iq")
    refused(tmp_path / "e.h5", "no array of its own")


@pytest.mark.parametrize("name", ["a.npz", "a.h5", "a.mat"])
@pytest.mark.parametrize("content", [b"x", b"PK\x03\x04" + bytes(50), b"\x89HDF\r\n\x1a\n" + bytes(600), bytes(700)])
def test_bytes_that_hold_no_arrays(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, "a." + name[2:])


def test_a_cut_file(tmp_path: Path) -> None:
    for write in (as_npz, as_h5, as_mat):
        path = write(tmp_path, {"iq": np.ones((1, 50_000), complex), "rate_hz": 1e6, "center_hz": 1e9})
        path.write_bytes(path.read_bytes()[:9_000])
        refused(path, path.name)


@pytest.mark.parametrize("write", [as_npz, as_h5])
def test_the_contents_tell_where_the_name_does_not(write: Write, tmp_path: Path) -> None:
    path = write(tmp_path, IQ)
    path.rename(tmp_path / "capture")
    assert open_source(str(tmp_path / "capture")).info.samples == 4


def test_a_stored_npz_is_read_in_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read although it is larger than what may be loaded whole; compressed it is refused."""
    monkeypatch.setattr("ingest.sources.arrays.MAX_WHOLE_BYTES", 10_000)
    arrays = {"iq": np.ones((2, 5_000), np.complex64), "rate_hz": 1e6, "center_hz": 1e9}
    assert samples_of(open_source(str(as_npz(tmp_path, arrays)))).shape == (2, 5_000)
    refused(as_compressed_npz(tmp_path, arrays), "compressed")
