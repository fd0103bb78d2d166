"""What the process asks of the system about its memory: to keep what is freed, large pages, and less of mapped files.

Freed memory stays with the process, so that a step's temporaries do not cost page faults every time: glibc gives large
blocks back to the system when they are freed, and the next step faults them in again, often at more than the price of
the arithmetic (docs/log.md). Training and serving allocate the same sizes over and over.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

LARGE_PAGE = 1 << 21
"""Bytes of a page that x86-64 and ARM64 have beside the ordinary ones."""

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


@cache
def _madvise():
    """The system's call; None where there is none."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        found = ctypes.CDLL(None).madvise
    except AttributeError:
        return None
    found.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return found


def _advise(tensor: torch.Tensor, advice: str, unit: int) -> None:
    """For the whole units of `unit` bytes that lie within a dense tensor's memory. It changes no numbers."""
    number = getattr(mmap, advice, None)  # not every system has it
    first = -(-tensor.data_ptr() // unit) * unit
    last = (tensor.data_ptr() + tensor.nbytes) // unit * unit
    call = _madvise()
    if call is not None and number is not None and first < last:
        call(first, last - first, number)


def large_pages(num_bytes: int) -> torch.Tensor:
    """New memory on the CPU for a weight, uint8, not set: in large pages where the system has them, so that 64 MB are
    there after 32 page faults instead of 16,384."""
    import torch

    if num_bytes < LARGE_PAGE:
        return torch.empty(num_bytes, dtype=torch.uint8)
    held = torch.empty(num_bytes + LARGE_PAGE, dtype=torch.uint8)  # what is never touched takes no memory
    start = -held.data_ptr() % LARGE_PAGE
    found = held[start : start + num_bytes]
    _advise(found, "MADV_HUGEPAGE", LARGE_PAGE)
    return found


def forget_mapped(view: torch.Tensor) -> None:
    """Let go of the memory behind a dense view of a file that is mapped and was not written to; reading it again reads
    the file again."""
    _advise(view, "MADV_DONTNEED", mmap.PAGESIZE)
