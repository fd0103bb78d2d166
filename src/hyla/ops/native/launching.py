"""One call of a kernel: made at once, and written down while somebody records the calls of a step."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import contextmanager
from ctypes import Structure, byref
from typing import Any, Protocol

import torch

from hyla.ops.native import library


class Recorder(Protocol):
    """Writes the calls down that are made under `recording`."""

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Memory for a result that lives as long as the recording is replayed."""
        ...

    def record(self, kernel: str, call: Structure, kept: tuple[Any, ...]) -> None:
        """kept: what the call points to, tensors and ctypes arrays; it must live as long as the recording."""
        ...


class _Current(threading.local):
    recorder: Recorder | None = None


_current = _Current()


@contextmanager
def recording(recorder: Recorder):
    """Let a recorder write down what this thread launches."""
    before, _current.recorder = _current.recorder, recorder
    try:
        yield
    finally:
        _current.recorder = before


def launch(kernel: str, call: Structure, *kept: Any) -> None:
    """Call `int hyla_<kernel>(const Call *)`. kept: what the call's pointers lead to.

    Raises MemoryError when the kernel found no memory (it returned something else than 0).
    """
    if _current.recorder is not None:
        _current.recorder.record(kernel, call, kept)
    if getattr(library(), f"hyla_{kernel}")(byref(call)):
        raise MemoryError(f"the kernel {kernel} found no memory")


def empty(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Memory on the CPU for a kernel's result, not set."""
    recorder = _current.recorder
    return torch.empty(shape, dtype=dtype) if recorder is None else recorder.empty(shape, dtype)
