"""Weights in tiles, as the kernel of `products` reads them (tiles.c)."""

from __future__ import annotations

from ctypes import Structure, addressof, c_int64, c_void_p
from math import prod

import torch

from hyla.ops.host_memory import large_pages
from hyla.ops.native import launching
from hyla.ops.native.kernels import is_bf16
from hyla.ops.native.products import TILE


class Part(Structure):
    """The struct `Part` of tiles.c."""

    _fields_ = (("rows", c_void_p), *((name, c_int64) for name in ("outputs", "row_stride", "matrix_stride")))


class TilesCall(Structure):
    """The struct `Call` of tiles.c."""

    _fields_ = (
        *((name, c_int64) for name in ("matrices", "outputs", "inner", "is_bf16", "parts")),
        *((name, c_void_p) for name in ("part", "out")),
    )


def in_tiles(*parts: torch.Tensor) -> torch.Tensor:
    """Weights [.., O_i, D] of one dtype over one another, in N tiles: fp32 [.., N, D, 64] or bf16
    [.., N, ceil(D / 2), 64, 2]. They are read once, where they are. `products.from_tiles` undoes it.
    """
    parts = tuple(part if part.stride(-1) == 1 else part.contiguous() for part in parts)
    first, outputs, bf16 = parts[0], sum(part.shape[-2] for part in parts), is_bf16(parts[0])
    *lead, _, inner = first.shape
    lines = -(-inner // 2) if bf16 else inner
    shape = (*lead, -(-outputs // TILE), lines, TILE, *([2] if bf16 else []))
    out = large_pages(prod(shape) * first.itemsize).view(first.dtype).view(shape)
    stacks = [part.reshape(-1, *part.shape[-2:]) for part in parts]
    listed = (Part * len(stacks))(*map(_part, stacks))
    call = TilesCall(stacks[0].shape[0], outputs, inner, bf16, len(stacks), addressof(listed), out.data_ptr())
    launching.launch("tiles", call, stacks, listed, out)
    return out


def _part(stack_MOD: torch.Tensor) -> Part:
    matrix, row, _ = (stride * stack_MOD.itemsize for stride in stack_MOD.stride())
    return Part(stack_MOD.data_ptr(), stack_MOD.shape[1], row, matrix)
