"""How many bits of a word are set, in kernels: the processor's own instruction, which NumPy has only for arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic, overload


def ones(word: np.uint64) -> int:
    """Bits set in a word."""
    return int(word).bit_count()


def _ctpop(_context: Any, _word: Any) -> Any:
    """LLVM's instruction of that name."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), generate


_counted: Any = intrinsic(_ctpop)


def _compiled(word: Any) -> Any:
    def count(word: Any) -> Any:
        return _counted(word)

    return count if word == types.uint64 else None


overload(ones)(_compiled)
