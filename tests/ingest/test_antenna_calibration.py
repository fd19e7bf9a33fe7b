"""Calibrations of antennas: measured from a splitter's capture, written, read, and divided out of what is received."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.antenna_calibration import SCHEMA, AntennaCalibration, read_calibration, write_calibration
from ingest.errors import InputRefused, UsageRefused
from ingest.measure_antennas import measure_antennas
from ingest.nr.receiver import NrReceiver
from ingest.sources import open_source
from tests.ingest.nr.signals import Ssb, block, capture

RATE_HZ, CENTER_HZ = 7.68e6, 3512.64e6
FLAT: dict[str, Any] = {"schema": SCHEMA, "gains_db": [0.0, -3.0], "phases_rad": [0.0, 1.2]}


def written(folder: Path, content: Any) -> Path:
    path = folder / "antennas.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def split(gains: npt.ArrayLike, rng: np.random.Generator, *, samples: int = 200_000, snr_db: float = 30.0) -> Any:
    """White noise that goes to antennas of those gains [A], with noise of each on top. Shape [A, samples]."""
    common = rng.normal(size=samples) + 1j * rng.normal(size=samples)
    clean = np.multiply.outer(np.asarray(gains, np.complex128), common)
    own = rng.normal(size=(2, *clean.shape)) * 10 ** (-snr_db / 20)
    return clean + own[0] + 1j * own[1]


def sigmf(folder: Path, samples: Any) -> str:
    """A SigMF recording of several channels, interleaved."""
    samples.T.astype("<c8").tofile(folder / "split.sigmf-data")
    known = {"core:datatype": "cf32_le", "core:version": "1.2.0", "core:sample_rate": RATE_HZ}
    place = {"core:sample_start": 0, "core:frequency": CENTER_HZ}
    meta = {"global": known | {"core:num_channels": len(samples)}, "captures": [place], "annotations": []}
    (folder / "split.sigmf-meta").write_text(json.dumps(meta))
    return str(folder / "split.sigmf-meta")


def measured(folder: Path, samples: Any, bands: int = 16) -> tuple[AntennaCalibration, dict[str, Any]]:
    return measure_antennas(open_source(sigmf(folder, samples)), bands=bands)


def test_gains_and_phases_are_measured(tmp_path: Path, rng: np.random.Generator) -> None:
    gains = np.array([1.0, 0.5 * np.exp(2.5j), 1.4 * np.exp(-1.0j)])
    found, report = measured(tmp_path, split(gains, rng))
    wanted = gains / np.sqrt(np.mean(np.abs(gains) ** 2))
    assert found.gains == pytest.approx(np.repeat(wanted[:, None], 16, axis=1), abs=0.01)
    assert (found.center_hz, report["antennas"], report["bands"]) == (CENTER_HZ, 3, 16)
    assert report["phases_rad"] == pytest.approx([0.0, 2.5, -1.0], abs=0.003)
    assert max(found.phase_errors_rad) < 0.003
    flat, _ = measured(tmp_path, split(gains, rng), bands=1)
    assert flat.frequencies_hz == ()
    assert flat.gains[:, 0] == pytest.approx(wanted, abs=0.01)


def test_a_longer_cable_shows_as_a_delay_and_is_undone_everywhere(tmp_path: Path, rng: np.random.Generator) -> None:
    common = split([1.0], rng)[0]
    spectrum, offsets_hz = np.fft.fft(common), np.fft.fftfreq(len(common)) * RATE_HZ
    delay_s = 60e-9
    late = np.fft.ifft(spectrum * np.exp(-2j * np.pi * offsets_hz * delay_s))
    found, report = measured(tmp_path, np.stack([common, late]))
    assert report["delays_ns"] == pytest.approx([0.0, 60.0], abs=0.5)
    tones_hz = np.linspace(-3.4e6, 3.4e6, 50)
    factors = found.factors(CENTER_HZ + tones_hz)
    assert factors is not None
    assert factors[1] / factors[0] == pytest.approx(np.exp(2j * np.pi * tones_hz * delay_s), abs=0.01)
    assert found.factors(CENTER_HZ + np.array([0.0, 5e6])) is None


def test_what_cannot_be_measured_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    turning = split([1.0, 1.0], rng)
    turning[1] *= np.exp(2j * np.pi * 3.0 * np.arange(turning.shape[1]) / RATE_HZ)
    cases = {
        "one antenna": split([1.0], rng),
        "too little": split([1.0, 1.0], rng, samples=5000),
        "did not receive one signal": np.stack([split([1.0], rng)[0], split([1.0], rng)[0]]),
        "turns against antenna 0 by [23]": turning,
    }
    for told, samples in cases.items():
        with pytest.raises(InputRefused, match=told):
            measured(tmp_path, samples)
    arrays = tmp_path / "arrays.npz"
    np.savez(arrays, cfr=np.ones((2, 1, 2, 4), np.complex64), tones_hz=np.arange(4) * 1e3)
    with pytest.raises(InputRefused, match="no recording of IQ"):
        measure_antennas(open_source(str(arrays)))


def test_what_is_written_is_read(tmp_path: Path, rng: np.random.Generator) -> None:
    found, _ = measured(tmp_path, split([1.0, 1.0j], rng))
    path = tmp_path / "antennas.json"
    write_calibration(path, found)
    assert read_calibration(path) == found
    with pytest.raises(InputRefused, match="exists already"):
        write_calibration(path, found)
    write_calibration(path, found, force=True)
    with pytest.raises(InputRefused, match="cannot be written"):
        write_calibration(tmp_path / "gone" / "antennas.json", found)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"gains_db": [0.0]}, "1 antennas, phases_rad 2"),
        ({"gains_db": [], "phases_rad": []}, "0 antennas"),
        ({"gains_db": [0.0, -1e9]}, "gains_db"),
        ({"gains_db": [0.0, None]}, "gains_db"),
        ({"phases_rad": "none"}, "phases_rad"),
        ({"frequencies_hz": [1e9, 2e9]}, "antenna 0 has one values, frequencies_hz 2"),
        ({"frequencies_hz": [2e9, 1e9], "gains_db": [[0, 0], [0, 0]], "phases_rad": [[0, 0], [0, 0]]}, "ascend"),
        ({"gains_db": [[0.0], [0.0]]}, "antenna 0 has 1 values"),
        ({"schema": "twinbeam.antennas/2"}, "schema|twinbeam"),
        ({"gain_db": [0.0, 0.0]}, "gain_db"),
    ],
)
def test_a_wrong_file_is_told_in_one_line(change: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match=told) as refusal:
        read_calibration(written(tmp_path, FLAT | change))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("text", ["", "[]", '{"schema": NaN}', "\udcff", '{"gains_db": [NaN, 0]}', "[" * 100_000])
def test_a_file_that_is_none_is_told(text: str, tmp_path: Path) -> None:
    path = tmp_path / "antennas.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputRefused, match=r"antennas\.json"):
        read_calibration(path)
    with pytest.raises(InputRefused, match="cannot be read"):
        read_calibration(tmp_path)


@given(
    content=st.binary(max_size=200)
    | st.recursive(
        st.none() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*FLAT, "frequencies_hz"]), inner),
    ).map(lambda one: json.dumps(one).encode())
)
def test_any_content_is_read_or_refused(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(content)
    with pytest.raises(InputRefused):
        read_calibration(path)


def ssb_frames(receiver: NrReceiver, gains: tuple[complex, ...], rng: np.random.Generator, center_hz: float) -> Any:
    sent = [Ssb(pci=7, start_s=1000 / RATE_HZ, raster_hz=CENTER_HZ, gain=gains)]
    samples = capture(sent, rate_hz=RATE_HZ, center_hz=center_hz, samples=5000, snr_db=25.0, rng=rng)
    return list(receiver.process(block(samples, rate_hz=RATE_HZ, center_hz=center_hz)))


def calibration(**change: Any) -> AntennaCalibration:
    return msgspec.convert(FLAT | change, AntennaCalibration)


def test_frames_are_freed_of_what_antennas_make(rng: np.random.Generator) -> None:
    gain = complex(10 ** (-3 / 20) * np.exp(1.2j))
    (frame,) = ssb_frames(NrReceiver(calibrations=(calibration(center_hz=CENTER_HZ),)), (1.0, gain), rng, CENTER_HZ)
    assert frame.phases == "calibrated"
    ratio = np.vdot(frame.cfr[0, 0], frame.cfr[0, 1]) / np.vdot(frame.cfr[0, 0], frame.cfr[0, 0])
    assert ratio == pytest.approx(1.0, abs=0.03)
    assert np.vdot(frame.cir[0], frame.cir[1]) / np.vdot(frame.cir[0], frame.cir[0]) == pytest.approx(1.0, abs=0.03)
    (plain,) = ssb_frames(NrReceiver(), (1.0, gain), rng, CENTER_HZ)
    assert plain.phases == "uncalibrated"
    assert np.vdot(plain.cfr[0, 0], plain.cfr[0, 1]) / np.vdot(plain.cfr[0, 0], plain.cfr[0, 0]) == pytest.approx(
        gain, abs=0.03
    )
    assert frame.noise_power == pytest.approx(plain.noise_power * (1 + 1 / abs(gain) ** 2) / 2, rel=0.3)


def test_another_tuning_radio_or_band_is_not_calibrated(rng: np.random.Generator) -> None:
    other_band = calibration(frequencies_hz=[1e9, 1.01e9], gains_db=[[0, 0], [0, 0]], phases_rad=[[0, 0], [1, 1]])
    for one in (calibration(center_hz=CENTER_HZ + 1e6), calibration(radio="another"), other_band):
        (frame,) = ssb_frames(NrReceiver(calibrations=(one,)), (1.0, 1.0), rng, CENTER_HZ)
        assert frame.phases == "uncalibrated"
    (frame,) = ssb_frames(NrReceiver(calibrations=(calibration(radio="radio"),)), (1.0, 1.0), rng, CENTER_HZ)
    assert frame.phases == "calibrated"


def test_one_antenna_has_no_mutual_phase(rng: np.random.Generator) -> None:
    receiver = NrReceiver()
    (frame,) = ssb_frames(receiver, (1.0,), rng, CENTER_HZ)
    assert frame.phases is None
    assert receiver.antennas.summary() is None


def test_a_calibration_of_another_array_is_refused(rng: np.random.Generator) -> None:
    with pytest.raises(UsageRefused, match=r"of 2 antennas, radio radio has 3"):
        ssb_frames(NrReceiver(calibrations=(calibration(),)), (1.0, 1.0, 1.0), rng, CENTER_HZ)


def test_antennas_that_run_apart_are_flagged_and_no_more_calibrated(rng: np.random.Generator) -> None:
    """An SSB every 20 ms for three seconds; the second antenna's clock is 5 Hz off for the first two."""
    receiver = NrReceiver(calibrations=(calibration(gains_db=[0.0, 0.0]),))
    said = []
    for n in range(150):
        start_s = n * 0.02
        turned = complex(np.exp(2j * np.pi * 5.0 * min(start_s, 2.0)))
        sent = [Ssb(pci=7, start_s=start_s + 1000 / RATE_HZ, raster_hz=CENTER_HZ, gain=(1.0, turned))]
        first = round(start_s * RATE_HZ)
        samples = capture(
            sent, rate_hz=RATE_HZ, center_hz=CENTER_HZ, samples=5000, snr_db=25.0, rng=rng, first_sample=first
        )
        one = block(samples, rate_hz=RATE_HZ, center_hz=CENTER_HZ, first_sample=first)
        said += [frame.phases for frame in receiver.process(one)]
    assert said[0] == "calibrated"
    assert "drifting" in said[60:100]
    assert "calibrated" not in said[said.index("drifting") :]
    summary = receiver.antennas.summary()
    assert summary is not None
    assert summary["phases"] in ("drifting", "uncalibrated")
    if "rates_hz" in summary:
        assert summary["rates_hz"][1] == pytest.approx(5.0, abs=2.0)
