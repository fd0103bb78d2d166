"""Programs: kernel calls that were written down while they were made, and are made again by one native call.

A program holds what its calls point to. Whoever runs it again has filled the tensors that change between two runs; the
calls themselves, with their addresses and sizes, stay what they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import Structure, addressof, c_int64, c_void_p, cast
from math import prod
from typing import Any

import torch

from hyla.ops.native import library

ALIGNMENT = 64
"""Bytes: a vector's at most."""

BLOCK_BYTES = 1 << 18
"""Least memory that an arena asks for at once."""


class ProgramStep(Structure):
    """The struct `Step` of program.c."""

    _fields_ = (("kernel", c_void_p), ("call", c_void_p))


class Program:
    """Calls in their order: each a kernel's name, its struct and what its pointers lead to."""

    def __init__(self):
        self.calls: list[tuple[str, Structure, tuple[Any, ...]]] = []
        self._steps: Any = None

    def close(self) -> None:
        """No call is added any more."""
        functions = library()
        steps = [
            ProgramStep(cast(getattr(functions, f"hyla_{kernel}"), c_void_p), addressof(call))
            for kernel, call, _ in self.calls
        ]
        self._steps = (ProgramStep * len(steps))(*steps)

    def run(self) -> None:
        """Make all calls of a closed program. Raises MemoryError when a kernel found no memory."""
        if library().hyla_run(self._steps, c_int64(len(self.calls))):
            raise MemoryError("a kernel of a recorded step found no memory")


class Arena:
    """Memory for results that live until it is begun again."""

    def __init__(self):
        self._blocks: list[torch.Tensor] = []
        self._block = self._used = 0

    @property
    def nbytes(self) -> int:
        return sum(block.numel() for block in self._blocks)

    def begin(self) -> None:
        """Hand out from the start again."""
        self._block = self._used = 0

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        nbytes = prod(shape) * dtype.itemsize
        while self._block < len(self._blocks) and self._used + nbytes > self._blocks[self._block].numel():
            self._block, self._used = self._block + 1, 0
        if self._block == len(self._blocks):
            self._blocks.append(torch.empty(max(BLOCK_BYTES, nbytes), dtype=torch.uint8))
        first = self._used
        self._used = -(-(first + nbytes) // ALIGNMENT) * ALIGNMENT
        return self._blocks[self._block][first : first + nbytes].view(dtype).view(tuple(shape))


class Tape:
    """A `launching.Recorder` of calls in parts; a part's results live until the part after the next begins."""

    def __init__(self):
        self.program = Program()
        self._arenas = (Arena(), Arena())
        self._part, self._mark = 0, 0

    @property
    def nbytes(self) -> int:
        """Memory for results."""
        return sum(arena.nbytes for arena in self._arenas)

    def begin(self) -> None:
        """The next part."""
        self._part += 1
        self._arenas[self._part % 2].begin()
        self._mark = len(self.program.calls)

    def withdraw(self) -> Program:
        """Forget the calls of this part. Returns the closed program of those before it; a new one begins."""
        del self.program.calls[self._mark :]
        return self.take()

    def take(self) -> Program:
        """The closed program of the calls so far; a new one begins."""
        taken, self.program, self._mark = self.program, Program(), 0
        taken.close()
        return taken

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        return self._arenas[self._part % 2].empty(shape, dtype)

    def record(self, kernel: str, call: Structure, kept: tuple[Any, ...]) -> None:
        self.program.calls.append((kernel, call, kept))
