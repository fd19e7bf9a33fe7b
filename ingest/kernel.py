"""The one place that says how numerical kernels are compiled.

No `parallel=True` (two threads entering a parallel region abort the process) and no `fastmath` (replays
must be byte-identical, NaN must stay NaN). `NUMBA_DISABLE_JIT=1` runs every kernel as plain Python.
"""

from __future__ import annotations

import builtins
import hashlib
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any, TypeVar, cast

import numba
import numpy as np

Function = TypeVar("Function", bound=Callable[..., object])

_STAMP = "twinbeam_stamp"
"""Attribute of a compiled kernel: digest of its source file's state and of what it takes from elsewhere."""


def kernel(function: Function) -> Function:
    """Compile `function` with numba: cached on disk, without the GIL, division by zero giving inf or NaN."""
    compiled: Any = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    if compiled is not function:  # plain Python where compiling is switched off
        _stamp(compiled)
    return cast(Function, compiled)


def _stamp(compiled: Any) -> None:
    """Make the cache of a kernel notice when a kernel or a constant that it takes from another file has changed.

    numba looks at the kernel's own file only: after an update, code that was inlined from another file went on running.
    """
    cache = getattr(compiled._cache, "_cache_file", None)
    if cache is None:  # nowhere to write a cache to
        return
    digest = hashlib.sha256(repr(cache._source_stamp).encode())
    for name, value in _taken(compiled.py_func):
        digest.update(f"{name}={value}".encode())
    setattr(compiled, _STAMP, digest.hexdigest())
    cache._source_stamp = (cache._source_stamp, digest.hexdigest())


def _taken(function: Callable[..., object]) -> Iterator[tuple[str, str]]:
    """What is compiled into a function beside its own code: stamps of kernels and values of constants, by name."""
    known = function.__globals__
    for name in sorted(_names(function.__code__)):
        value = known.get(name)
        if hasattr(value, _STAMP):
            yield name, getattr(value, _STAMP)
        elif isinstance(value, bool | int | float | complex | str | tuple | np.generic):
            yield name, repr(value)
        elif isinstance(value, np.ndarray):
            yield name, hashlib.sha256(repr((value.dtype, value.shape)).encode() + value.tobytes()).hexdigest()


def _names(code: CodeType) -> set[str]:
    """Names that the code and what is nested in it look up, without Python's own."""
    found = {name for name in code.co_names if not hasattr(builtins, name)}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= _names(constant)
    return found
