"""Arrays inside msgpack, for what two processes of ours say to each other; nobody else's bytes are read by this."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def packed(array: object) -> tuple[str, tuple[int, ...], bytes]:
    """What msgspec encodes an array as."""
    assert isinstance(array, np.ndarray)
    return array.dtype.str, array.shape, array.tobytes()


def unpacked(_: type, found: Any) -> npt.NDArray[Any]:
    """The array again, read-only."""
    dtype, shape, data = found
    return np.frombuffer(data, dtype).reshape(shape)
