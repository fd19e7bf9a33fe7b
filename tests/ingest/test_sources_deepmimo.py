"""DeepMIMO scenarios: paths of a ray tracer become the channels that DeepMIMO publishes a formula for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.io import savemat

from ingest.errors import InputRefused, TwinbeamError, UsageRefused
from ingest.messages import ChannelFrame
from ingest.sources import Source, open_source
from ingest.sources.deepmimo import Array, Ofdm, channel

NAME = "BS1_UE_0-3.mat"


def frames(source: Source) -> list[ChannelFrame]:
    return [message for message in source if isinstance(message, ChannelFrame)]


def random_paths(rng: np.random.Generator, count: int) -> npt.NDArray[np.float64]:
    """[8, count]: phase, time of arrival, power, arrival and departure angles, line of sight."""
    rows = [
        rng.uniform(-180, 180, count), rng.uniform(1e-7, 2e-6, count), rng.uniform(-120, -80, count),
        rng.uniform(-180, 180, count), rng.uniform(0, 180, count),
        rng.uniform(-180, 180, count), rng.uniform(0, 180, count), np.zeros(count),
    ]  # fmt: skip
    return np.stack(rows)


def as_published(
    paths: npt.NDArray[np.float64], shape: tuple[int, int], spacing: float, rotation: tuple[float, float, float],
    subcarriers: int, bandwidth_hz: float, tones: list[int], transmit_dbm: float,
) -> npt.NDArray[np.complex128]:  # fmt: skip
    """DeepMIMO v3's channel, term by term: rotated angles by 38.901 eq. (7.1-7) and (7.1-8), element by element."""
    gamma, beta, alpha = np.deg2rad(rotation)  # about x, y, z
    found = np.zeros((shape[0] * shape[1], len(tones)), complex)
    for phase, delay_s, power_dbm, _, _, azimuth, zenith, _ in paths.T:
        theta, phi = np.deg2rad(zenith), np.deg2rad(azimuth)
        turned_theta = np.arccos(
            np.cos(beta) * np.cos(gamma) * np.cos(theta)
            + (np.sin(beta) * np.cos(gamma) * np.cos(phi - alpha) - np.sin(gamma) * np.sin(phi - alpha)) * np.sin(theta)
        )
        turned_phi = np.angle(
            np.cos(beta) * np.sin(theta) * np.cos(phi - alpha)
            - np.sin(beta) * np.cos(theta)
            + 1j
            * (
                np.cos(beta) * np.sin(gamma) * np.cos(theta)
                + (np.sin(beta) * np.sin(gamma) * np.cos(phi - alpha) + np.cos(gamma) * np.sin(phi - alpha))
                * np.sin(theta)
            )
        )
        watts = 10 ** ((power_dbm + 30 - transmit_dbm) / 10 - 3)
        if delay_s * bandwidth_hz >= subcarriers:
            continue
        for z in range(shape[1]):
            for y in range(shape[0]):
                wave = 2 * np.pi * spacing * np.sin(turned_theta) * np.sin(turned_phi) * y
                wave += 2 * np.pi * spacing * np.cos(turned_theta) * z
                for column, tone in enumerate(tones):
                    turn = np.deg2rad(phase) - 2 * np.pi * tone / subcarriers * delay_s * bandwidth_hz
                    found[z * shape[0] + y, column] += np.sqrt(watts / subcarriers) * np.exp(1j * (turn + wave))
    return found


def test_the_channel_is_the_published_one(rng: np.random.Generator) -> None:
    for rotation in ((0.0, 0.0, 0.0), (0.0, 0.0, -135.0), (20.0, -35.0, 110.0)):
        paths = random_paths(rng, 7)
        ofdm = Ofdm(64, 20e6, np.array([0, 5, 63]))
        ours = channel(paths, Array((4, 3), 0.5, rotation), ofdm, 30.0)
        literal = as_published(paths, (4, 3), 0.5, rotation, 64, 20e6, [0, 5, 63], 0.0)
        np.testing.assert_allclose(ours, literal, rtol=1e-9, atol=1e-9 * np.abs(literal).max())


def test_paths_that_arrive_after_the_symbol_are_left_out(rng: np.random.Generator) -> None:
    paths = random_paths(rng, 2)
    paths[1] = [1e-6, 64 / 20e6]
    ofdm = Ofdm(64, 20e6)
    np.testing.assert_allclose(channel(paths, Array(), ofdm), channel(paths[:, :1], Array(), ofdm))


def test_a_broadside_path_reaches_all_elements_alike() -> None:
    """Azimuth 0 and zenith angle 90 degrees: along the x axis, where the array looks; rotated, it looks elsewhere."""
    paths = np.array([[0.0, 1e-7, -30.0, 0, 90, 0, 90, 1]]).T
    flat = channel(paths, Array((4, 2)), Ofdm())
    np.testing.assert_allclose(flat, flat[0, 0])
    paths[5] = -135
    turned = channel(paths, Array((4, 2), rotation_deg=(0, 0, -135)), Ofdm())
    np.testing.assert_allclose(turned, flat)
    along_y = channel(np.array([[0.0, 1e-7, -30.0, 0, 90, 90, 90, 1]]).T, Array((4, 1)), Ofdm())
    np.testing.assert_allclose(along_y[1:] / along_y[:-1], -1)  # half a wavelength per element


def scenario(folder: Path, users: list[npt.NDArray[Any]], *, params: bool = True, **more: Any) -> Path:
    """The two files of a scenario, as DeepMIMO's converter writes them: cells of structs with a field p."""
    cells = np.empty((1, len(users)), object)
    for place, paths in enumerate(users):
        cells[0, place] = {"p": paths.astype(np.float32)}
    places = np.c_[
        np.arange(len(users)) * 2.5, np.full(len(users), -7.0), np.full(len(users), 1.5), np.zeros((len(users), 2))
    ]
    content = {"channels": cells, "rx_locs": places.astype(np.float32), "tx_loc": np.zeros((1, 3))} | more
    savemat(folder / NAME, {key: value for key, value in content.items() if value is not None})
    if params:
        savemat(folder / "params.mat", {"carrier_freq": 3.5e9, "transmit_power": 10.0, "version": 2})
    return folder / NAME


def test_a_scenario(tmp_path: Path, rng: np.random.Generator) -> None:
    users = [random_paths(rng, 3), np.zeros((8, 0)), random_paths(rng, 1)]
    path = scenario(tmp_path, users)
    source = open_source(f"{path}?shape=4x2&rotation=0,0,-135&subcarriers=128&bandwidth_hz=30e6&selected=0:128:64")
    assert (source.info.format, source.info.antennas, source.info.samples) == ("deepmimo", 8, 3)
    found = frames(source)
    assert [(frame.user, frame.seq, frame.position_m) for frame in found] == [
        ("ue0", 0, (0.0, -7.0, 1.5)),
        ("ue2", 1, (5.0, -7.0, 1.5)),
    ]
    assert dict(source.rejected) == {"no_path": 1}
    for frame, paths in zip(found, [users[0], users[2]], strict=True):
        rounded = paths.astype(np.float32).astype(float)
        literal = as_published(rounded, (4, 2), 0.5, (0, 0, -135), 128, 30e6, [0, 64], 10.0)
        np.testing.assert_allclose(frame.cfr[0], literal, rtol=1e-5, atol=1e-6 * np.abs(literal).max())
        np.testing.assert_allclose(frame.tones_hz, [0, 15e6])
        assert frame.carrier_hz == 3.5e9
        assert frame.noise_power == pytest.approx(1.380649e-23 * 290 * 30e6 / 128)


def test_one_user_walks_through_all_places(tmp_path: Path, rng: np.random.Generator) -> None:
    path = scenario(tmp_path, [random_paths(rng, 2) for _ in range(4)], params=False)
    found = frames(open_source(f"{path}?shape=2x1&walk=1&users=1:4&carrier_hz=28e9"))
    assert [(frame.user, frame.block, frame.carrier_hz) for frame in found] == [("ue", n, 28e9) for n in range(3)]
    assert frames(open_source(str(path)))[0].carrier_hz is None


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ("shape=16", "shape"), ("shape=0x8", "shape"), ("shape=axb", "shape"), ("rotation=1,2", "rotation"),
        ("spacing=nan", "spacing"), ("selected=x", "selected"), ("selected=0:5:0", "selected"), ("users=-1:", "users"),
        ("walk=2", "walk"), ("shape=1.5x2", "whole numbers"), ("colour=red", "unknown option 'colour'"),
    ],
)  # fmt: skip
def test_options_that_are_none(options: str, word: str, tmp_path: Path, rng: np.random.Generator) -> None:
    path = scenario(tmp_path, [random_paths(rng, 2)])
    with pytest.raises(UsageRefused, match=word):
        open_source(f"{path}?{options}")


def test_iq_options_do_not_belong_to_channels(tmp_path: Path, rng: np.random.Generator) -> None:
    path = scenario(tmp_path, [random_paths(rng, 2)])
    with pytest.raises(UsageRefused, match="leave them out"):
        open_source(str(path), rate_hz=1e6)


def test_matrices_that_are_none_are_counted(tmp_path: Path, rng: np.random.Generator) -> None:
    poisoned = random_paths(rng, 2)
    poisoned[1, 0] = np.nan
    source = open_source(str(scenario(tmp_path, [random_paths(rng, 2), np.ones((5, 2)), poisoned])))
    assert len(frames(source)) == 1
    assert dict(source.rejected) == {"damaged": 2}


@pytest.mark.parametrize(
    "more",
    [{"channels": None}, {"rx_locs": None}, {"channels": np.ones(3)}, {"rx_locs": np.ones((2, 5))},
     {"rx_locs": np.full((1, 5), np.nan)}, {"rx_locs": np.ones((1, 2))}],
)  # fmt: skip
def test_files_that_are_no_scenario(more: dict[str, Any], tmp_path: Path, rng: np.random.Generator) -> None:
    with pytest.raises(InputRefused):
        open_source(str(scenario(tmp_path, [random_paths(rng, 2)], **more)))


@pytest.mark.parametrize("content", [b"x", b"MATLAB 5.0 MAT-file" + bytes(200), bytes(500), b"\xff" * 300])
def test_bytes_that_are_no_matlab(content: bytes, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(TwinbeamError) as refusal:
        open_source(str(tmp_path / NAME))
    assert "\n" not in str(refusal.value)


def test_parameters_that_are_none(tmp_path: Path, rng: np.random.Generator) -> None:
    path = scenario(tmp_path, [random_paths(rng, 2)])
    savemat(tmp_path / "params.mat", {"carrier_freq": -1.0, "transmit_power": 0.0})
    with pytest.raises(InputRefused, match="carrier"):
        open_source(str(path))


@pytest.mark.data
def test_the_recorded_scenario(data: Path) -> None:
    """Indianapolis: 6 320 users on 80 x 79 places, half of them out of reach."""
    path = data / "deepmimo" / "indianapolis_original_28GHz" / "BS3_UE_0-6320.mat"
    source = open_source(f"{path}?rotation=0,0,-135&users=0:6320:8")
    found = frames(source)
    assert len(found) + source.rejected["no_path"] == 790
    assert {frame.carrier_hz for frame in found} == {28e9}
    assert {frame.cfr.shape for frame in found} == {(1, 128, 1)}
    heights = {round(frame.position_m[2], 3) for frame in found if frame.position_m is not None}
    assert heights == {2.0}
