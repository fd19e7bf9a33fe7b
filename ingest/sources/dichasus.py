"""DICHASUS data sets (University of Stuttgart): measured massive-MIMO channels with positions, as TFRecords.

Every record is a `tf.train.Example` with these features, tensors serialised by `tf.io.serialize_tensor`:

| feature | kind | what |
| `csi` | bytes: float32 tensor [A, S, 2] | channel of A antennas on S subcarriers, real and imaginary; FFT order |
| `pos-tachy` | bytes: float64 tensor [3] | transmitter's position [m]; may be missing |
| `snr` | bytes: float32 tensor [A] | signal-to-noise ratio per antenna [dB]; may be missing |
| `time` | float list of one | seconds since the campaign began; may be missing |
| `gt-interp-age-tachy` | float list of one | seconds to the nearest measured position |

A position older than max_age_s=1 is left out, `cfo` is not used. Carrier and bandwidth are not in the file: options
carrier_hz=1.272e9 and bandwidth_hz=50e6, which are those of dichasus-cf0x and cf1x. Source: the data sets' pages at
dichasus.inue.uni-stuttgart.de.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ingest.errors import InputRefused
from ingest.messages import ChannelFrame, Vector, no_array
from ingest.sources.base import Source, SourceInfo
from ingest.sources.options import Options
from ingest.sources.tfrecord import Damaged, Feature, parse_example, parse_tensor, read_records
from ingest.sources.wifi import noise_from_bends

_MAX_TIME_S = 1e9


class DichasusSource(Source):
    """One `ChannelFrame` per record, of user `mobtx`. Damaged records are counted; a file streams through."""

    def __init__(self, path: Path, options: Options) -> None:
        self._carrier_hz = options.number("carrier_hz", 1.272e9, 1.0, 1e12)
        self._bandwidth_hz = options.number("bandwidth_hz", 50e6, 1.0, 1e11)
        self._max_age_s = options.number("max_age_s", 1.0, 0.0, 1e9)
        options.done()
        first = next(_examples(path), None)
        if not isinstance(first, dict) or "csi" not in first:
            raise InputRefused("is no DICHASUS file", where=str(path), mend="a TFRecord of examples with feature 'csi'")
        try:
            antennas = _csi(first).shape[0]
        except Damaged:
            raise InputRefused("its feature 'csi' is no float tensor [A, S, 2]", where=str(path)) from None
        super().__init__(SourceInfo(format="dichasus", where=str(path), antennas=antennas))

    def __iter__(self) -> Iterator[ChannelFrame]:
        number = 0
        for example in _examples(Path(self.info.where)):
            try:
                if isinstance(example, Damaged):
                    raise example
                frame = self._frame(example, number)
            except Damaged as reason:
                self.rejected[str(reason)] += 1
                continue
            yield frame
            number += 1

    def _frame(self, example: dict[str, Feature], number: int) -> ChannelFrame:
        cfr = _csi(example)
        antennas, tones = cfr.shape
        if antennas != self.info.antennas:
            raise Damaged("antennas")
        power = np.mean(np.abs(cfr.astype(np.complex128)) ** 2, axis=1)
        noise_power = _noise_power(example, cfr, power)
        if not (np.isfinite(noise_power) and noise_power > 0):
            raise Damaged("no_power")
        return ChannelFrame(
            source="dichasus",
            epoch=0,
            seq=number,
            t_ns=round(_number(example, "time", 0.0, _MAX_TIME_S) * 1e9),
            user="mobtx",
            block=number,
            domain="effective",
            noise_power=noise_power,
            snr_db=float(10 * np.log10(power.mean() / noise_power)),
            carrier_hz=self._carrier_hz,
            position_m=self._position(example),
            cfr=cfr[None],
            tones_hz=(np.arange(tones) - tones // 2) * (self._bandwidth_hz / tones),
            ris_patterns=no_array(1, 0),
            beams=no_array(0, antennas),
            cir=no_array(antennas, 0),
        )

    def _position(self, example: dict[str, Feature]) -> Vector | None:
        """Where the transmitter was; None where it was not measured or too long ago."""
        told = example.get("pos-tachy")
        if not isinstance(told, bytes) or not told:
            return None
        position = parse_tensor(told)
        if position.shape != (3,):
            raise Damaged("damaged")
        if not np.isfinite(position).all() or _number(example, "gt-interp-age-tachy", 0.0, 1e9) > self._max_age_s:
            return None
        x, y, z = (float(value) for value in position)
        return x, y, z


def _examples(path: Path) -> Iterator[dict[str, Feature] | Damaged]:
    try:
        with path.open("rb") as file:
            for record in read_records(file):
                try:
                    yield record if isinstance(record, Damaged) else parse_example(record)
                except Damaged as damage:
                    yield damage
    except OSError as error:
        raise InputRefused(f"cannot be read: {error.strerror}", where=str(path)) from None


def _csi(example: dict[str, Feature]) -> npt.NDArray[np.complex64]:
    """Channel [A, S], subcarriers in rising order."""
    told = example.get("csi")
    if not isinstance(told, bytes):
        raise Damaged("no_csi")
    parts = parse_tensor(told)
    if parts.ndim != 3 or parts.shape[2] != 2 or 0 in parts.shape:
        raise Damaged("damaged")
    parts = np.ascontiguousarray(parts, np.float32)
    if not np.isfinite(parts).all():
        raise Damaged("non_finite")
    return np.fft.fftshift(parts.view(np.complex64)[..., 0], axes=1)


def _noise_power(example: dict[str, Feature], cfr: npt.NDArray[np.complex64], power: npt.NDArray[np.float64]) -> float:
    """Mean noise power of an entry, by the antennas' SNR or, where there is none, by what is not smooth."""
    told = example.get("snr")
    if isinstance(told, bytes) and told:
        snr_db = parse_tensor(told)
        if snr_db.shape != power.shape:
            raise Damaged("damaged")
        with np.errstate(all="ignore"):
            return float(np.mean(power * 10 ** (-snr_db.astype(np.float64) / 10)))
    return noise_from_bends(cfr, 1e-9 * float(power.mean()))


def _number(example: dict[str, Feature], name: str, default: float, most: float) -> float:
    """The one number of a float list, within 0 … most; `default` where it is missing or not finite."""
    told = example.get(name)
    if not isinstance(told, np.ndarray) or told.size != 1 or not np.isfinite(told[0]):
        return default
    return min(max(float(told[0]), 0.0), most)
