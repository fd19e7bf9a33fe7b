"""DeepMIMO v3 scenarios: ray-traced paths of many users in a `BS<b>_UE_<from>-<to>.mat`, as channels of a told array.

Per user the file has a matrix [8, L]: phase [deg], time of arrival [s], received power [dBm], azimuth and elevation
of arrival, azimuth and elevation of departure [deg], line-of-sight flag. Elevation counts from the zenith, azimuth from
the x axis towards y. `params.mat` beside it holds carrier and transmit power. The channel is DeepMIMO's own
(A. Alkhateeb, "DeepMIMO: A Generic Deep Learning Dataset", as its version 3 computes it), for one antenna at the user:

h[n, s] = sum_l sqrt(P_l / K) exp(j (phase_l - 2 pi s tau_l B / K)) exp(j 2 pi d (y_n u_l + z_n v_l))

K subcarriers over the bandwidth B; elements stand in the y-z plane of the array's own axes, y the faster index, d
wavelengths apart, and (u_l, v_l) are the y and z parts of path l's departure in these axes. Paths that arrive after one
OFDM symbol, K / B, are left out, as DeepMIMO does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ingest.errors import InputRefused, UsageRefused
from ingest.messages import ChannelFrame, no_array
from ingest.sources.base import Source, SourceInfo
from ingest.sources.mat_file import read_mat
from ingest.sources.options import Options

_ROWS = 8
_BOLTZMANN = 1.380649e-23
_KELVIN = 290.0
_MAX_PATHS = 10_000
_MAX_ENTRIES = 1 << 21
"""Antennas times subcarriers of one channel: as many as a message holds."""

_MAX_PRODUCTS = 1 << 22
"""Paths times antennas or subcarriers of one user: some hundred megabytes while they are added up."""

_USER_NS = 1_000_000
Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Array:
    """shape (horizontal, vertical), spacing in wavelengths, rotation about x, y and z [deg] as in 38.901 clause 7.1."""

    shape: tuple[int, int] = (16, 8)
    spacing: float = 0.5
    rotation_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def response(self, azimuth_deg: Matrix, zenith_deg: Matrix) -> npt.NDArray[np.complex128]:
        """[N, L] for L departures."""
        azimuth, zenith = np.deg2rad(azimuth_deg), np.deg2rad(zenith_deg)
        global_axes = np.stack([np.sin(zenith) * np.cos(azimuth), np.sin(zenith) * np.sin(azimuth), np.cos(zenith)])
        about_x, about_y, about_z = np.deg2rad(self.rotation_deg)
        own_axes = (_turn(2, about_z) @ _turn(1, about_y) @ _turn(0, about_x)).T @ global_axes
        y, z = np.tile(np.arange(self.shape[0]), self.shape[1]), np.repeat(np.arange(self.shape[1]), self.shape[0])
        phases = np.outer(y, own_axes[1]) + np.outer(z, own_axes[2])
        return np.asarray(np.exp(2j * np.pi * self.spacing * phases))


def _turn(axis: int, angle_rad: float) -> Matrix:
    """Right-handed rotation about one of the axes."""
    one, other = (axis + 1) % 3, (axis + 2) % 3
    turn = np.eye(3)
    turn[[one, other], [one, other]] = np.cos(angle_rad)
    turn[other, one], turn[one, other] = np.sin(angle_rad), -np.sin(angle_rad)
    return turn


@dataclass(frozen=True)
class Ofdm:
    """subcarriers over bandwidth_hz; `tones` [S] are those that are computed."""

    subcarriers: int = 512
    bandwidth_hz: float = 50e6
    tones: npt.NDArray[np.int64] = field(default_factory=lambda: np.arange(1))

    @property
    def spacing_hz(self) -> float:
        return self.bandwidth_hz / self.subcarriers

    def response(self, paths: Matrix, gain_db: float) -> npt.NDArray[np.complex128]:
        """[L, S]: every path's coefficient on every tone. gain_db: what is added to the powers, which are in dBm."""
        phase, delay_s, power_dbm = paths[0], paths[1], paths[2]
        power = 10 ** ((power_dbm + gain_db) / 10 - 3) / self.subcarriers
        power = np.where(delay_s * self.spacing_hz < 1.0, power, 0.0)
        turns = np.deg2rad(phase)[:, None] - 2 * np.pi * np.outer(delay_s * self.spacing_hz, self.tones)
        return np.asarray(np.sqrt(power)[:, None] * np.exp(1j * turns))


def channel(paths: Matrix, array: Array, ofdm: Ofdm, gain_db: float = 0.0) -> npt.NDArray[np.complex128]:
    """Channel [N, S] of paths [8 or more, L]; |h|^2 is received power [W] for 1 W sent, shared by the subcarriers."""
    return array.response(paths[5], paths[6]) @ ofdm.response(paths, gain_db)


class DeepMimoSource(Source):
    """One `ChannelFrame` per user that is reached, at its position; users that no path reaches are counted.

    Options: shape=16x8, spacing=0.5 (wavelengths), rotation=0,0,-135 (degrees about x, y, z), subcarriers=512,
    bandwidth_hz=50e6, selected=0:1 (of the subcarriers), users=0:100, carrier_hz, walk=1: one user visits the places.
    noise_power is that of 290 K on one subcarrier: a ray tracer's channel has no error that it knows of.

    array, ofdm and carrier_hz are what channels are made with, places_m [users, 3] and transmitter_m [3] (None where
    the file does not say) where; gain_db is added to the powers, which are in dBm.
    """

    def __init__(self, path: Path, options: Options) -> None:
        horizontal, vertical = options.integers("shape", (16, 8), 1, 1024)
        about_x, about_y, about_z = options.numbers("rotation", (0.0, 0.0, 0.0), -360.0, 360.0)
        self.array = Array(
            (horizontal, vertical), options.number("spacing", 0.5, 1e-3, 100), (about_x, about_y, about_z)
        )
        (subcarriers,) = options.integers("subcarriers", (512,), 1, 1 << 16)
        bandwidth_hz = options.number("bandwidth_hz", 50e6, 1.0, 1e11)
        tones = np.arange(subcarriers)[options.selection("selected", "0:1")]
        self.ofdm = Ofdm(subcarriers, bandwidth_hz, tones)
        self._users = options.selection("users", "0:")
        self._walk = bool(options.integers("walk", (0,), 0, 1)[0])
        told_hz = options.number("carrier_hz", 0.0, 0.0, 1e12)
        options.done()
        if not self.ofdm.tones.size:
            raise InputRefused("selected names no subcarrier", where=str(path))
        if horizontal * vertical * tones.size > _MAX_ENTRIES:
            what = f"{horizontal * vertical} antennas times {tones.size} subcarriers are over {_MAX_ENTRIES}"
            raise UsageRefused(what, where=str(path), mend="select fewer subcarriers, as selected=0:512:16")
        self._paths, self.places_m, self.transmitter_m = _load(path)
        carrier_hz, transmit_dbm = _scenario(path)
        self.carrier_hz = told_hz or carrier_hz
        self.gain_db = 30.0 - transmit_dbm
        antennas = horizontal * vertical
        super().__init__(SourceInfo(format="deepmimo", where=str(path), antennas=antennas, samples=len(self._paths)))

    def __iter__(self) -> Iterator[ChannelFrame]:
        noise_power = _BOLTZMANN * _KELVIN * self.ofdm.spacing_hz
        seq = 0
        for user in range(len(self._paths))[self._users]:
            paths = self.paths_of(user)
            if paths is None:
                self.rejected["damaged"] += 1
                continue
            if paths.shape[1] * max(self.info.antennas or 0, self.ofdm.tones.size) > _MAX_PRODUCTS:
                self.rejected["too_many_paths"] += 1
                continue
            cfr = channel(paths, self.array, self.ofdm, self.gain_db).astype(np.complex64)
            if not cfr.any() or not np.isfinite(cfr).all():
                self.rejected["no_path" if np.isfinite(cfr).all() else "non_finite"] += 1
                continue
            yield self._frame(user, seq, cfr, noise_power)
            seq += 1

    def paths_of(self, user: int) -> Matrix | None:
        """A user's paths [8 or more, L], rows as this file's head says; None where they are damaged."""
        return _matrix(self._paths[user])

    def _frame(self, user: int, seq: int, cfr: npt.NDArray[np.complex64], noise_power: float) -> ChannelFrame:
        antennas = cfr.shape[0]
        x, y, z = (float(value) for value in self.places_m[user])
        power = float(np.mean(np.abs(cfr.astype(np.complex128)) ** 2))
        return ChannelFrame(
            source="deepmimo",
            epoch=0,
            seq=seq,
            t_ns=seq * _USER_NS,
            user="ue" if self._walk else f"ue{user}",
            block=seq,
            domain="effective",
            noise_power=noise_power,
            snr_db=float(10 * np.log10(power / noise_power)),
            carrier_hz=self.carrier_hz,
            position_m=(x, y, z),
            cfr=cfr[None],
            tones_hz=self.ofdm.tones * self.ofdm.spacing_hz,
            ris_patterns=no_array(1, 0),
            beams=no_array(0, antennas),
            cir=no_array(antennas, 0),
        )


def _matrix(cell: Any) -> Matrix | None:
    """A user's matrix [8 or more, L] of finite numbers, bare or in a struct's field `p`; None where it is none."""
    if isinstance(cell, dict):
        inner = cell.get("p")
        cell = inner.reshape(-1)[0] if inner is not None and inner.size == 1 else None
    if not isinstance(cell, np.ndarray) or cell.dtype.kind not in "fiu" or cell.ndim != 2:
        return None
    whole = cell.shape[0] >= _ROWS and cell.shape[1] <= _MAX_PATHS
    return cell.astype(np.float64) if whole and np.isfinite(cell).all() else None


def _load(path: Path) -> tuple[npt.NDArray[Any], Matrix, Matrix | None]:
    """Cells of all users, their positions [users, 3], and the transmitter's [3] where it is told."""
    content = read_mat(path, ("channels", "channels_VV", "rx_locs", "tx_loc"))
    cells = content.get("channels", content.get("channels_VV"))
    places = content.get("rx_locs")
    if not isinstance(cells, np.ndarray) or cells.dtype != object or not isinstance(places, np.ndarray):
        raise InputRefused("has no 'channels' and 'rx_locs'", where=str(path), mend="give a BS<b>_UE_<from>-<to>.mat")
    cells = cells.reshape(-1)
    if places.ndim != 2 or places.shape[0] != cells.size or places.shape[1] < 3 or places.dtype.kind not in "fiu":
        raise InputRefused(f"{cells.size} channels and positions of shape {places.shape}", where=str(path))
    found = places[:, :3].astype(np.float64)
    if not np.isfinite(found).all():
        raise InputRefused("a position is not finite", where=str(path))
    at = content.get("tx_loc")
    told = isinstance(at, np.ndarray) and at.size == 3 and at.dtype.kind in "fiu" and bool(np.isfinite(at).all())
    return cells, found, np.asarray(at, np.float64).reshape(3) if told else None


def _scenario(path: Path) -> tuple[float | None, float]:
    """Carrier [Hz] and transmit power [dBm] of `params.mat` beside the file; None and 0 dBm without one."""
    params = path.with_name("params.mat")
    if not params.is_file():
        return None, 0.0
    content = read_mat(params, ("carrier_freq", "transmit_power"))
    carrier_hz, transmit_dbm = (_number(content.get(name)) for name in ("carrier_freq", "transmit_power"))
    if not (0 < carrier_hz <= 1e12 and abs(transmit_dbm) <= 200):
        raise InputRefused(f"carrier {carrier_hz} Hz, {transmit_dbm} dBm", where=str(params))
    return carrier_hz, transmit_dbm


def _number(value: Any) -> float:
    """The one number of an array; NaN where it is none."""
    one = isinstance(value, np.ndarray) and value.size == 1 and value.dtype.kind in "fiu"
    return float(value.reshape(-1)[0]) if one else float("nan")
