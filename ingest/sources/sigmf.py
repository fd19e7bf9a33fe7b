"""SigMF recordings: a `.sigmf-meta` beside a `.sigmf-data`.

The schema is checked by the `sigmf` package. What it lets pass is checked here: NaN rates, data files outside the
recording's folder, data that is shorter than its metadata says, checksums.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from pathlib import Path
from typing import Any, NoReturn

from ingest.errors import InputRefused
from ingest.sources.base import Source
from ingest.sources.iq_file import FORMATS, IqFileSource, SampleFormat, Segment, check_rate_and_center

DATATYPES: dict[str, SampleFormat] = {
    "cf32_le": FORMATS["cf32"],
    "cf64_le": FORMATS["cf64"],
    "ci16_le": FORMATS["sc16"],
    "ci8": FORMATS["sc8"],
    "cf32_be": SampleFormat("cf32_be", ">f4", 1.0),
    "cf64_be": SampleFormat("cf64_be", ">f8", 1.0),
    "ci16_be": SampleFormat("ci16_be", ">i2", 32768.0),
}

_MAX_META_BYTES = 64 << 20
_MAX_LOST_S = 1e9
_META, _DATA = ".sigmf-meta", ".sigmf-data"


def open_sigmf(path: Path) -> Source:
    """The recording that `path` names by its metadata file, its data file or their common stem."""
    meta_path = _meta_path(path)
    meta = _read_meta(meta_path)
    settings = meta["global"]
    datatype = settings["core:datatype"]
    if datatype not in DATATYPES:
        raise InputRefused(
            f"datatype {datatype!r} is not read", where=str(meta_path), mend=f"one of {', '.join(DATATYPES)}"
        )
    if settings.get("core:trailing_bytes") or any(capture.get("core:header_bytes") for capture in meta["captures"]):
        raise InputRefused(
            "a data file with headers between its samples is not read",
            where=str(meta_path),
            mend="convert it to a plain .sigmf-data",
        )
    rate_hz = settings.get("core:sample_rate")
    if rate_hz is None:
        raise InputRefused("has no core:sample_rate", where=str(meta_path), mend="add the rate in hertz")
    data_path = _data_path(meta_path, settings)
    segments = _segments(meta, rate_hz, str(meta_path))
    _check_sha512(data_path, settings.get("core:sha512"))
    source = IqFileSource(
        data_path,
        DATATYPES[datatype],
        float(rate_hz),
        segments,
        antennas=int(settings.get("core:num_channels", 1)),
        container="sigmf",
    )
    _check_length(source, meta, data_path)
    return source


def _meta_path(path: Path) -> Path:
    name = path.name
    if not name.removesuffix(_META).removesuffix(_DATA):
        raise InputRefused("is no recording's name", where=str(path), mend="a recording is NAME.sigmf-meta")
    for suffix in (_META, _DATA):
        name = name.removesuffix(suffix)
    return path.with_name(name + _META)


def _read_meta(path: Path) -> dict[str, Any]:
    """The metadata, valid by SigMF's schema and free of NaN and Infinity, which JSON does not know."""
    import jsonschema
    from sigmf import validate

    try:
        if path.stat().st_size > _MAX_META_BYTES:
            raise InputRefused(f"metadata of over {_MAX_META_BYTES >> 20} MiB", where=str(path))
        meta: dict[str, Any] = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # undeclared extensions do not concern us
            validate.validate(meta)
    except FileNotFoundError:
        raise InputRefused(
            "is missing", where=str(path), mend="a recording is a .sigmf-meta and a .sigmf-data"
        ) from None
    except OSError as error:
        raise InputRefused(f"cannot be read: {error.strerror}", where=str(path)) from None
    except (ValueError, RecursionError) as error:
        raise InputRefused(f"is not SigMF JSON: {error}", where=str(path)) from None
    except jsonschema.ValidationError as error:
        key = "/".join(str(part) for part in error.absolute_path)
        raise InputRefused(f"breaks the SigMF schema at '{key}': {error.message[:120]}", where=str(path)) from None
    except (KeyError, TypeError, AttributeError) as error:
        raise InputRefused(f"is not a SigMF recording: {error!r}", where=str(path)) from None
    return meta


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _data_path(meta_path: Path, settings: dict[str, Any]) -> Path:
    """The data file; `core:dataset` may name another one, in the recording's own folder only."""
    named = settings.get("core:dataset")
    path = meta_path.with_name(meta_path.name.removesuffix(_META) + _DATA)
    if named and not _lies_in(meta_path.parent, path := meta_path.parent / named):
        raise InputRefused(
            f"core:dataset {named!r} leads out of the recording's folder",
            where=str(meta_path),
            mend="put the data file beside its metadata",
        )
    if not os.path.isfile(path):
        raise InputRefused("data file is missing", where=str(path), mend="put it beside its metadata")
    return path


def _lies_in(folder: Path, path: Path) -> bool:
    """Whether `path` is a direct child of `folder`, links followed; no name that the system refuses is one."""
    try:
        return path.resolve().parent == folder.resolve()
    except (OSError, RuntimeError, ValueError):  # too long; links in a circle; a zero byte
        return False


def _segments(meta: dict[str, Any], rate_hz: float, where: str) -> tuple[Segment, ...]:
    """The captures, their places counted from the start of the data file."""
    offset = int(meta["global"].get("core:offset", 0))
    segments: list[Segment] = []
    for capture in meta["captures"] or [{"core:sample_start": offset}]:
        center_hz = capture.get("core:frequency")
        if center_hz is None:
            raise InputRefused("a capture has no core:frequency", where=where, mend="add it in hertz")
        check_rate_and_center(rate_hz, center_hz, where=where)
        start = int(capture["core:sample_start"])
        lost = int(capture.get("core:global_index", start)) - start
        if start < offset or (segments and lost < segments[-1].lost_before):
            raise InputRefused(f"the capture at sample {start} overlaps what comes before it", where=where)
        if lost > _MAX_LOST_S * rate_hz:
            raise InputRefused(f"the capture at sample {start} has an absurd core:global_index", where=where)
        segments.append(Segment(start - offset, float(center_hz), lost))
    return tuple(segments)


def _check_sha512(path: Path, expected: str | None) -> None:
    if expected is None:
        return
    try:
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha512").hexdigest()
    except OSError as error:
        raise InputRefused(f"cannot be read: {error.strerror}", where=str(path)) from None
    if actual != expected.lower():
        raise InputRefused(
            f"sha512 is {actual[:12]}…, the metadata says {expected[:12]}…",
            where=str(path),
            mend="the data was changed or cut; copy it again",
        )


def _check_length(source: Source, meta: dict[str, Any], path: Path) -> None:
    """Refuse data that ends before what captures and annotations speak of: it was truncated."""
    samples = (source.info.samples or 0) + int(meta["global"].get("core:offset", 0))
    needed = [int(capture["core:sample_start"]) + 1 for capture in meta["captures"]]
    needed += [
        int(annotation["core:sample_start"]) + int(annotation.get("core:sample_count", 1))
        for annotation in meta["annotations"]
    ]
    if needed and max(needed) > samples:
        raise InputRefused(
            f"ends at sample {samples}, its metadata speaks of {max(needed)}",
            where=str(path),
            mend="the data file is truncated; copy it again",
        )
