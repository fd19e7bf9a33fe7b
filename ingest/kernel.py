"""The one place that says how numerical kernels are compiled.

No `parallel=True` (two threads entering a parallel region abort the process) and no `fastmath` (replays
must be byte-identical, NaN must stay NaN). `NUMBA_DISABLE_JIT=1` runs every kernel as plain Python.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., object])


def kernel(function: Function) -> Function:
    """Compile `function` with numba: cached on disk, without the GIL, division by zero giving inf or NaN."""
    compiled: Any = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    return cast(Function, compiled)
