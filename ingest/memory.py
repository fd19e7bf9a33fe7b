"""How the process's memory is kept: what was freed is used again, and not given back to the system.

Blocks of samples are megabytes each and come hundreds of times a second. The C library gives memory of that size back
when it is freed, and the system clears every page of it when it is asked for anew: with four antennas on a virtual
machine that was half of the kernel's time.
"""

from __future__ import annotations

import ctypes
import platform

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8
"""`mallopt`'s numbers, in malloc.h of the GNU C library."""

_LARGEST_BYTES = 32 << 20
"""As much as glibc lets its heap serve."""

_KEPT_BYTES = 1 << 30


def keep_freed_memory() -> bool:
    """Serve all but the largest arrays from one heap that does not shrink; whether this C library can be told so.

    To be called before there are threads: each would get a heap of its own, which is given back whenever it is empty.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    options = {
        _ARENA_MAX: 1,
        _MMAP_THRESHOLD: _LARGEST_BYTES,
        _TRIM_THRESHOLD: _KEPT_BYTES,
        _TOP_PAD: _LARGEST_BYTES,
    }
    return all([mallopt(option, value) == 1 for option, value in options.items()])
