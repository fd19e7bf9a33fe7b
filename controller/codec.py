"""Decoders of CSI feedback: ONNX files with a manifest that pins their hash.

A model ships as `NAME.onnx` and `NAME.json`. It turns a codeword [1, L] into a channel [1, 2, N, S], real and imaginary
part, in units of the gain that the feedback carries.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from controller.covariance import Complex
from ingest.errors import InputRefused
from ingest.messages import FloatArray
from ingest.settings_file import refusal

_NOWHERE = "/dev/null/none"
"""A folder that cannot exist."""


class CodecManifest(BaseModel):
    """What stands beside a codec's ONNX file. nmse_db: error of its decoded channels, measured on held-out data."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    format: Literal["twinbeam.codec/1"] = Field(alias="schema")
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:+-]{1,64}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    codeword: Annotated[int, Field(ge=1, le=1 << 20)]
    antennas: Annotated[int, Field(ge=1, le=1 << 16)]
    tones: Annotated[int, Field(ge=1, le=1 << 16)]
    scale: Annotated[float, Field(gt=0)] = 1.0
    nmse_db: Annotated[float, Field(le=0, ge=-80)]
    data: str
    commit: str


class CsiDecoder(Protocol):
    """From a user's codeword to its channel."""

    manifest: CodecManifest

    def decode(self, codeword: FloatArray, gain: float) -> Complex:
        """The channel [N, S] behind `codeword`; `ValueError` where it does not fit or the result is not finite."""
        ...


class OnnxDecoder:
    """An ONNX codec run by ONNX Runtime on one thread that does not spin."""

    def __init__(self, path: Path) -> None:
        self.manifest = _read_manifest(path)
        content = _read_model(path)
        digest = hashlib.sha256(content).hexdigest()
        if digest != self.manifest.sha256:
            raise InputRefused(
                f"sha256 is {digest[:12]}…, its manifest says {self.manifest.sha256[:12]}…",
                where=str(path),
                mend="take model and manifest from the same release",
            )
        self._session = _open_session(content, path)
        try:
            (self._input,) = (one.name for one in self._session.get_inputs())
            self.decode(np.zeros(self.manifest.codeword, np.float32), 1.0)
        except Exception as error:
            raise InputRefused(
                f"does not do what its manifest says: {error}", where=str(path), mend="export it anew"
            ) from None

    def decode(self, codeword: FloatArray, gain: float) -> Complex:
        if codeword.shape != (self.manifest.codeword,):
            raise ValueError(
                f"codeword of {codeword.size} numbers, {self.manifest.name} takes {self.manifest.codeword}"
            )
        try:
            (output,) = self._session.run(None, {self._input: codeword.astype(np.float32)[None]})
        except Exception as error:  # what ONNX Runtime raises has no common base, and depends on the input as well
            raise ValueError(f"{self.manifest.name} fails: {error}") from None
        expected = (1, 2, self.manifest.antennas, self.manifest.tones)
        if np.shape(output) != expected:
            raise ValueError(f"decoded shape {np.shape(output)}, not {expected}")
        real, imaginary = np.asarray(output[0], np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            channel = (real + 1j * imaginary) * (self.manifest.scale * gain)
        if not np.isfinite(channel).all():
            raise ValueError("decoded channel is not finite")
        return np.asarray(channel)


def _read_model(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputRefused(
            f"cannot be read: {error.strerror}", where=str(path), mend="a manifest needs its model beside it"
        ) from None


def _read_manifest(path: Path) -> CodecManifest:
    if not path.name:
        raise InputRefused("is no model", where=str(path), mend="give the path of an .onnx file")
    manifest_path = path.with_suffix(".json")
    try:
        text = manifest_path.read_bytes()
    except OSError as error:
        raise InputRefused(
            f"cannot be read: {error.strerror}",
            where=str(manifest_path),
            mend="a model needs its manifest beside it",
        ) from None
    try:
        return CodecManifest.model_validate_json(text)
    except ValidationError as error:
        problem = refusal(CodecManifest, error, str(manifest_path))
        raise InputRefused(problem.what, where=problem.where, mend=problem.mend) from None


def _open_session(content: bytes, path: Path) -> Any:
    """A session of the very bytes that were hashed. Weights in files beside it are refused: no hash pins them."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", _NOWHERE)
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise InputRefused(
            f"is not a model that ONNX Runtime loads: {error}", where=str(path), mend="export it anew"
        ) from None
