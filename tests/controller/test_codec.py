"""A codec decodes as its weights say, and is refused in one line where file and manifest do not vouch for each other.

The models here are real ONNX files: one linear layer and a reshape.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from controller.codec import OnnxDecoder
from ingest.errors import InputRefused
from ingest.messages import FloatArray

CODEWORD, ANTENNAS, TONES = 6, 3, 4
SHAPE = (1, 2, ANTENNAS, TONES)


def linear_model(
    weights: FloatArray, shape: tuple[int, ...] = SHAPE, *, inputs: int = 1, logarithm: bool = False
) -> bytes:
    """y = reshape(codeword @ weights), of its logarithm if asked for: NaN where that is negative."""
    nodes = [helper.make_node("MatMul", ["codeword", "weights"], ["flat"])]
    if logarithm:
        nodes.append(helper.make_node("Log", ["flat"], ["curved"]))
    nodes.append(helper.make_node("Reshape", ["curved" if logarithm else "flat", "shape"], ["channel"]))
    given = [helper.make_tensor_value_info("codeword", TensorProto.FLOAT, [1, weights.shape[0]])]
    if inputs == 2:
        given.append(helper.make_tensor_value_info("unused", TensorProto.FLOAT, [1]))
    graph = helper.make_graph(
        nodes,
        "decoder",
        given,
        [helper.make_tensor_value_info("channel", TensorProto.FLOAT, list(shape))],
        [
            numpy_helper.from_array(weights.astype(np.float32), "weights"),
            numpy_helper.from_array(np.array(shape, np.int64), "shape"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def manifest(content: bytes, **changes: Any) -> dict[str, Any]:
    return {
        "schema": "twinbeam.codec/1",
        "name": "linear",
        "sha256": hashlib.sha256(content).hexdigest(),
        "codeword": CODEWORD,
        "antennas": ANTENNAS,
        "tones": TONES,
        "scale": 0.5,
        "nmse_db": -12.0,
        "data": "none",
        "commit": "none",
        **changes,
    }


def shipped(folder: Path, content: bytes, **changes: Any) -> Path:
    """A model and the manifest beside it."""
    path = folder / "codec.onnx"
    path.write_bytes(content)
    path.with_suffix(".json").write_text(json.dumps(manifest(content, **changes)))
    return path


@pytest.fixture
def weights(rng: np.random.Generator) -> FloatArray:
    return rng.normal(size=(CODEWORD, 2 * ANTENNAS * TONES)).astype(np.float32)


def refused(path: Path) -> str:
    with pytest.raises(InputRefused) as refusal:
        OnnxDecoder(path)
    line = str(refusal.value)
    assert "\n" not in line
    assert str(path.with_suffix("")) in line
    return line


def test_decoding_is_what_the_weights_say(tmp_path: Path, weights: FloatArray, rng: np.random.Generator) -> None:
    decoder = OnnxDecoder(shipped(tmp_path, linear_model(weights)))
    for gain in (1.0, 3e-6):
        codeword = rng.normal(size=CODEWORD).astype(np.float32)
        real, imaginary = (codeword.astype(np.float64) @ weights).reshape(2, ANTENNAS, TONES)
        found = decoder.decode(codeword, gain)
        assert found.dtype == np.complex128
        np.testing.assert_allclose(found, 0.5 * gain * (real + 1j * imaginary), rtol=1e-5, atol=1e-5 * gain)
    assert decoder.manifest.name == "linear"


def test_decoding_is_repeatable(tmp_path: Path, weights: FloatArray, rng: np.random.Generator) -> None:
    path, codeword = shipped(tmp_path, linear_model(weights)), rng.normal(size=CODEWORD).astype(np.float32)
    first, again = (OnnxDecoder(path).decode(codeword, 1.0) for _ in range(2))
    assert np.array_equal(first, again)


@pytest.mark.parametrize("shape", [(CODEWORD - 1,), (CODEWORD + 1,), (0,), (1, CODEWORD)])
def test_a_codeword_that_does_not_fit_is_a_value_error(
    shape: tuple[int, ...], tmp_path: Path, weights: FloatArray
) -> None:
    decoder = OnnxDecoder(shipped(tmp_path, linear_model(weights)))
    with pytest.raises(ValueError, match="linear takes 6"):
        decoder.decode(np.zeros(shape, np.float32), 1.0)


@pytest.mark.parametrize("gain", [1e308, float("inf"), float("nan")])
def test_a_gain_out_of_all_bounds_is_a_value_error(gain: float, tmp_path: Path, weights: FloatArray) -> None:
    decoder = OnnxDecoder(shipped(tmp_path, linear_model(1e3 * weights)))
    with pytest.raises(ValueError, match="not finite"):
        decoder.decode(np.full(CODEWORD, 1e6, np.float32), gain)


def test_a_model_that_answers_nan_is_a_value_error(tmp_path: Path, weights: FloatArray) -> None:
    """Log of the linear layer: fine for some codewords, NaN for others; -inf for the zeros of the load-time test."""
    line = refused(shipped(tmp_path, linear_model(weights, logarithm=True)))
    assert "decoded channel is not finite" in line
    decoder = OnnxDecoder(shipped(tmp_path, linear_model(weights)))
    with pytest.raises(ValueError, match="not finite"):
        decoder.decode(np.full(CODEWORD, np.nan, np.float32), 1.0)


def test_a_model_that_fails_at_work_is_a_value_error(tmp_path: Path) -> None:
    """A gather whose index comes from the codeword runs out of its table: ONNX Runtime raises an error of its own."""
    table = np.zeros((4, *SHAPE[1:]), np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["codeword"], ["index"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "index"], ["picked"], axis=0),
            helper.make_node("Reshape", ["picked", "shape"], ["channel"]),
        ],
        "decoder",
        [helper.make_tensor_value_info("codeword", TensorProto.FLOAT, [1, 1])],
        [helper.make_tensor_value_info("channel", TensorProto.FLOAT, list(SHAPE))],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array(SHAPE, np.int64), "shape")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    decoder = OnnxDecoder(shipped(tmp_path, bytes(model.SerializeToString()), codeword=1))
    assert not decoder.decode(np.ones(1, np.float32), 1.0).any()
    with pytest.raises(ValueError, match="linear fails"):
        decoder.decode(np.full(1, 99, np.float32), 1.0)


def test_another_hash_is_refused(tmp_path: Path, weights: FloatArray) -> None:
    path = shipped(tmp_path, linear_model(weights))
    path.write_bytes(path.read_bytes() + b"\0")
    assert "its manifest says" in refused(path)


def test_weights_that_no_hash_pins_are_refused(
    tmp_path: Path, weights: FloatArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX may keep weights in a file beside the model; whoever changes that file changes no hash."""
    path = tmp_path / "codec.onnx"
    model = onnx.load_from_string(linear_model(weights))
    onnx.save_model(model, str(path), save_as_external_data=True, location="weights.bin", size_threshold=200)
    assert (tmp_path / "weights.bin").stat().st_size == weights.nbytes
    path.with_suffix(".json").write_text(json.dumps(manifest(path.read_bytes())))
    refused(path)
    monkeypatch.chdir(tmp_path)
    refused(path)


def test_a_missing_manifest_is_refused(tmp_path: Path, weights: FloatArray) -> None:
    path = shipped(tmp_path, linear_model(weights))
    path.with_suffix(".json").unlink()
    assert "needs its manifest" in refused(path)


def test_a_missing_model_is_refused(tmp_path: Path, weights: FloatArray) -> None:
    path = shipped(tmp_path, linear_model(weights))
    path.unlink()
    assert "cannot be read" in refused(path)
    path.mkdir()
    assert "cannot be read" in refused(path)


@pytest.mark.parametrize("name", ["", ".", "/"])
def test_a_path_that_names_no_file_is_refused(name: str) -> None:
    with pytest.raises(InputRefused):
        OnnxDecoder(Path(name))


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": "twinbeam.codec/2"},
        {"name": "no spaces"},
        {"sha256": "short"},
        {"codeword": 0},
        {"antennas": -1},
        {"tones": 1.5},
        {"scale": 0.0},
        {"nmse_db": 1.0},
        {"nmse_db": float("nan")},
        {"surprise": 1},
    ],
)
def test_a_manifest_out_of_bounds_is_refused(changes: dict[str, Any], tmp_path: Path, weights: FloatArray) -> None:
    (key,) = changes
    line = refused(shipped(tmp_path, linear_model(weights), **changes))
    assert key in line
    assert ".json" in line


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"schema": 1}', b"null"])
def test_a_manifest_that_is_none_is_refused(content: bytes, tmp_path: Path, weights: FloatArray) -> None:
    path = shipped(tmp_path, linear_model(weights))
    path.with_suffix(".json").write_bytes(content)
    refused(path)


@pytest.mark.parametrize(
    "changes", [{"codeword": CODEWORD + 1}, {"antennas": ANTENNAS + 1}, {"tones": TONES - 1}, {"scale": 1e308}]
)
def test_a_manifest_that_does_not_fit_its_model_is_refused(
    changes: dict[str, Any], tmp_path: Path, weights: FloatArray
) -> None:
    path = shipped(tmp_path, linear_model(weights), **changes)
    if "scale" in changes:
        with pytest.raises(ValueError, match="not finite"):
            OnnxDecoder(path).decode(np.full(CODEWORD, 9, np.float32), 1e10)
    else:
        assert "does not do what its manifest says" in refused(path)


@pytest.mark.parametrize("shape", [(1, 2 * ANTENNAS, TONES), (2, 1, ANTENNAS, TONES), (1, 2, TONES, ANTENNAS)])
def test_an_output_of_another_shape_is_refused(shape: tuple[int, ...], tmp_path: Path, weights: FloatArray) -> None:
    assert "decoded shape" in refused(shipped(tmp_path, linear_model(weights, shape)))


def test_a_model_of_two_inputs_is_refused(tmp_path: Path, weights: FloatArray) -> None:
    assert "does not do what its manifest says" in refused(shipped(tmp_path, linear_model(weights, inputs=2)))


class Malicious:
    """What a pickle could do while it is read: here, leave a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return (open, (str(self.trace), "w"))


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"not a model", b"PK\x03\x04" + bytes(60)])
def test_what_is_no_onnx_file_is_refused(content: bytes, tmp_path: Path) -> None:
    """With the right hash in its manifest: only the file itself speaks against it."""
    refused(shipped(tmp_path, content))


def test_a_pickle_is_refused_unread(tmp_path: Path) -> None:
    trace = tmp_path / "was-here"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        refused(shipped(tmp_path, pickle.dumps(Malicious(trace), protocol)))
        assert not trace.exists()


def test_a_cut_model_is_refused(tmp_path: Path, weights: FloatArray) -> None:
    whole = linear_model(weights)
    for length in (len(whole) // 3, len(whole) - 5):
        refused(shipped(tmp_path, whole[:length]))
