"""Freed memory stays with the process, so that a step's temporaries do not cost page faults every time.

glibc gives large blocks back to the system when they are freed, and the next step faults them in again, often at more
than the price of the arithmetic (docs/log.md). Training and serving allocate the same sizes over and over.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8


@cache
def keep_freed_memory() -> bool:
    """Ask glibc to keep what is freed, once per process. False where there is no glibc; nothing else changes then.

    The process's resident size stays at its high-water mark afterwards.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    wanted = ((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 1 << 30), (M_TOP_PAD, 1 << 26))
    return all(mallopt(option, value) == 1 for option, value in wanted)


def give_back_freed_memory() -> bool:
    """Return all that is freed to the system now, for a process that will idle. False where there is no glibc."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        trim = ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):
        return False
    return trim(0) == 1
