"""Weights in the CPU library's own layout: faster products with the bits of the plain ones. For inference only."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hyla.errors import BackendUnavailable, ConfigError
from hyla.ops import backends
from hyla.ops.exact import library, rows
from hyla.ops.weights.plain import Plain, narrowed
from hyla.ops.weights.protocol import ShardAxis, Weights, shard_bounds
from hyla.ops.weights.tiled import tiled


@dataclass(frozen=True, eq=False)
class Packed(Weights):
    """A matrix [O, D], by blocks of outputs (`rows.block_sizes`)."""

    blocks: tuple[torch.Tensor, ...]
    part_rows: tuple[int, ...]
    """Outputs of each of the matrices that stand over one another in it."""
    in_dim: int
    compute_dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return sum(self.part_rows), self.in_dim

    @property
    def dtype(self) -> torch.dtype:
        return self.compute_dtype

    @property
    def nbytes(self) -> int:
        return sum(self.part_rows) * self.in_dim * self.dtype.itemsize

    def dense(self, first: int = 0, last: int | None = None) -> torch.Tensor:
        plain = [block.to_dense() for block in self.blocks]
        return (torch.cat(plain) if len(plain) > 1 else plain[0])[first:last]

    def take(self, expert: int) -> Weights:
        raise ConfigError("a packed matrix is no stack of experts")

    def shard(self, axis: ShardAxis, rank: int, size: int) -> Weights:
        return pack(*(narrowed(part, axis, rank, size) for part in self.dense().split(self.part_rows)))

    def product(self, x_TD: torch.Tensor, bias_O: torch.Tensor | None = None) -> torch.Tensor:
        """Raises BackendUnavailable when a gradient is asked: it would not reach the weights."""
        if x_TD.shape[0] == 0:
            return x_TD.new_zeros(0, sum(self.part_rows))
        if torch.is_grad_enabled() and x_TD.requires_grad:
            raise BackendUnavailable("packed weights have no gradient; call model.unpack() before training")
        return rows.linear_blocks(x_TD, self.blocks, None if bias_O is None else bias_O.detach())


@dataclass(frozen=True, eq=False)
class PackedStack(Weights):
    """The experts' matrices, packed one by one."""

    experts: tuple[Weights, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.experts), *self.experts[0].shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.experts[0].dtype

    @property
    def nbytes(self) -> int:
        return sum(expert.nbytes for expert in self.experts)

    def dense(self, first: int = 0, last: int | None = None) -> torch.Tensor:
        return torch.stack([expert.dense(first, last) for expert in self.experts])

    def take(self, expert: int) -> Weights:
        return self.experts[expert]

    def shard(self, axis: ShardAxis, rank: int, size: int) -> PackedStack:
        if axis != "expert":
            return PackedStack(tuple(expert.shard(axis, rank, size) for expert in self.experts))
        return PackedStack(self.experts[slice(*shard_bounds(len(self.experts), rank, size))])

    def product(self, x_TD: torch.Tensor, bias_O: torch.Tensor | None = None) -> torch.Tensor:
        raise ConfigError("a stack of experts multiplies grouped rows")


def pack(*parts: torch.Tensor, dtype: torch.dtype | None = None) -> Weights:
    """Matrices [O_i, D] over one another, laid out for the CPU: in the tiles of our kernel where there is one, else in
    the library's layout; other devices and float64: plain ones. dtype: of the product; None: the parts' own.

    Undo: `dense`, exact.
    """
    if makes_tiles(parts[0], dtype):
        return tiled(*parts, dtype=dtype)
    weight_OD = Plain(tuple(part.detach() for part in parts), dtype).whole()
    part_rows = tuple(part.shape[0] for part in parts)
    if not library.has_library_layout(weight_OD.device, weight_OD.dtype):
        return Plain(weight_OD.split(part_rows))
    blocks = tuple(library.reorder(block) for block in weight_OD.split(rows.block_sizes(*weight_OD.shape)))
    return Packed(blocks, part_rows, weight_OD.shape[1], weight_OD.dtype)


def pack_stack(*parts: torch.Tensor, dtype: torch.dtype | None = None) -> Weights:
    """Stacks [E, O_i, D] over one another, as `pack`: in tiles as one stack, else expert by expert."""
    if makes_tiles(parts[0], dtype):
        return tiled(*parts, dtype=dtype)
    return PackedStack(tuple(pack(*(part[e] for part in parts), dtype=dtype) for e in range(parts[0].shape[0])))


def makes_tiles(part: torch.Tensor, dtype: torch.dtype | None) -> bool:
    """Whether our kernel computes in dtype with such weights as they are stored: in that dtype, or bf16 for fp32."""
    return backends.uses_native(part) and dtype in (None, part.dtype, torch.float32)
