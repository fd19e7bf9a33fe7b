"""Opens files: finds out what one is by its name, else by its contents, and gives it to the reader of its kind."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from ingest.errors import InputRefused, UsageRefused
from ingest.mcap_file import MAGIC
from ingest.sources.array_file import open_array_file
from ingest.sources.atheros import AtherosCsiSource, atheros_byte_order
from ingest.sources.base import Source
from ingest.sources.csi_log import IntelCsiSource
from ingest.sources.deepmimo import DeepMimoSource
from ingest.sources.iq_file import channel_files, open_raw_iq
from ingest.sources.journal import JournalSource
from ingest.sources.options import Options, split_options
from ingest.sources.picoscenes import PicoScenesSource, looks_like_picoscenes
from ingest.sources.samples import FORMATS, SUFFIXES
from ingest.sources.side_car import find_side_car
from ingest.sources.sigmf import Asked, open_sigmf

CHANNEL_KINDS = ("intel5300", "atheros", "picoscenes", "journal", "deepmimo", "dichasus")
KINDS = ("sigmf", *CHANNEL_KINDS, "array", *FORMATS)
FORMAT_OPTION = f"--format {'|'.join(KINDS)}"

_BY_SUFFIX = {
    ".sigmf-meta": "sigmf",
    ".sigmf-data": "sigmf",
    ".sigmf-collection": "sigmf",
    ".sigmf": "sigmf",
    ".mcap": "journal",
    ".npz": "array",
    ".h5": "array",
    ".hdf5": "array",
    ".mat": "array",
    ".tfrecord": "dichasus",
    ".tfrecords": "dichasus",
} | SUFFIXES
_DEEPMIMO_NAME = re.compile(r"BS\d+_(UE_\d+-\d+|BS)\.mat", re.ASCII)
_INTEL_CODES = (0xBB, 0xC1)
"""Record codes of the Linux 802.11n CSI Tool: a beamforming report, a received packet."""
_LOOK_BYTES = 1 << 16


def open_file(name: str, format_name: str | None, asked: Asked) -> Source:
    """The source that the file `name`, with options behind a `?`, is. Raises `UsageRefused` or `InputRefused`."""
    if format_name not in (None, *KINDS):
        raise UsageRefused(f"unknown format '{format_name}'", where=name, mend=FORMAT_OPTION)
    path, options = split_options(name)
    kind = format_name or _kind_by_suffix(path)
    if kind == "sigmf":
        if path.suffix in (".sigmf", ".sigmf-collection"):
            _check_file(path, asked)
        recording = options.text("recording")
        options.done()
        return open_sigmf(path, asked, recording=recording)
    if not channel_files(path):
        _check_file(path, asked)
    kind = kind or _kind_by_content(path)
    if kind in FORMATS or kind == "raw":
        options.done()
        return open_raw_iq(
            path,
            format_name=None if kind == "raw" else kind,
            rate_hz=asked.rate_hz,
            center_hz=asked.center_hz,
            follow=asked.follow,
            idle_s=asked.idle_s,
        )
    if asked.follow:
        raise UsageRefused("cannot be followed as it grows", where=name, mend="only raw IQ and SigMF can")
    if kind == "array":
        options.done()
        return open_array_file(path, rate_hz=asked.rate_hz, center_hz=asked.center_hz)
    if kind not in CHANNEL_KINDS:
        raise InputRefused("unknown format", where=str(path), mend=FORMAT_OPTION)
    if asked.rate_hz is not None or asked.center_hz is not None:
        raise UsageRefused("holds no IQ, to which --rate-hz and --center-hz belong", where=name, mend="leave them out")
    return _open_channels(kind, path, options)


def _open_channels(kind: str, path: Path, options: Options) -> Source:
    if kind == "deepmimo":
        return DeepMimoSource(path, options)
    if kind == "dichasus":
        from ingest.sources.dichasus import DichasusSource

        return DichasusSource(path, options)
    options.done()
    readers: dict[str, Callable[[Path], Source]] = {
        "intel5300": IntelCsiSource,
        "atheros": AtherosCsiSource,
        "picoscenes": PicoScenesSource,
        "journal": JournalSource,
    }
    return readers[kind](path)


def _kind_by_suffix(path: Path) -> str:
    if _DEEPMIMO_NAME.fullmatch(path.name):
        return "deepmimo"
    return _BY_SUFFIX.get(path.suffix.lower(), "")


def _kind_by_content(path: Path) -> str:
    """A side-car says that a file is raw IQ; else its first bytes say what it is."""
    if channel_files(path) or find_side_car(path) is not None:
        return "raw"
    try:
        with path.open("rb") as file:
            head = file.read(_LOOK_BYTES)
    except OSError as error:
        raise InputRefused(f"cannot be read: {error.strerror}", where=str(path)) from None
    if head.startswith(MAGIC):
        return "journal"
    if head.startswith((b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"MATLAB 5.0 MAT-file", b"MATLAB 7.3 MAT-file")):
        return "array"
    if looks_like_picoscenes(head):
        return "picoscenes"
    if _looks_like_intel_log(head):
        return "intel5300"
    return "atheros" if atheros_byte_order(head) else ""


def _looks_like_intel_log(head: bytes) -> bool:
    """Whether `head` is a row of records: big-endian length, code byte, payload."""
    offset = 0
    for _ in range(4):
        if offset + 3 > len(head):
            break
        length = int.from_bytes(head[offset : offset + 2])
        if head[offset + 2] not in _INTEL_CODES or length < 2:
            return False
        offset += 2 + length
    return offset > 0


def _check_file(path: Path, asked: Asked) -> None:
    """Refuse what is no file with bytes in it."""
    if os.path.isdir(path):
        raise InputRefused("is a directory", where=str(path), mend="name a file in it")
    if not os.path.exists(path):
        raise InputRefused("no such file", where=str(path))
    if not os.path.isfile(path):
        raise InputRefused("is not a regular file", where=str(path), mend="store the samples in a file first")
    if os.path.getsize(path) == 0 and not asked.follow:
        raise InputRefused("is empty", where=str(path), mend="give a capture with samples in it")
