"""Weights in the tiles of the CPU's own kernel: what `pack` makes where there is one. For inference only."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from functools import cached_property

import torch

from hyla.errors import BackendUnavailable, ConfigError
from hyla.ops import backends
from hyla.ops.exact import rows
from hyla.ops.native import products
from hyla.ops.native.tiles import in_tiles
from hyla.ops.weights.plain import narrowed
from hyla.ops.weights.protocol import AXIS_PLACES, ShardAxis, Spans, Weights, span_tensor


@dataclass(frozen=True, eq=False)
class Tiled(Weights):
    """A matrix [O, D], or a stack of them [E, O, D], with 64 outputs side by side (`native.tiles.in_tiles`).

    bf16 numbers meet bf16 rows or, with a compute_dtype of fp32, fp32 ones: they are widened on their way into the sum.
    """

    tiles: torch.Tensor
    part_rows: tuple[int, ...]
    """Outputs of each of the matrices that stand over one another in it."""
    in_dim: int
    compute_dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        lead = self.tiles.shape[: self.tiles.dim() - (4 if self.tiles.dtype == torch.bfloat16 else 3)]
        return (*lead, sum(self.part_rows), self.in_dim)

    @property
    def dtype(self) -> torch.dtype:
        return self.compute_dtype

    @property
    def nbytes(self) -> int:
        return self.tiles.nbytes

    @cached_property
    def _stored(self) -> products.Stored:
        return products.Stored(self.tiles, self.shape, is_tiled=True)

    def stored_rows(self, ids_T: torch.Tensor) -> torch.Tensor:
        """Rows int64 [T] of the matrix as they are stored, [T, D]: an embedding's, whose head this is.

        Raises IndexError, as a plain embedding does: the last tile may have places behind the last row.
        """
        if bool(((ids_T < 0) | (ids_T >= sum(self.part_rows))).any()):
            raise IndexError(f"index out of range: the matrix has {sum(self.part_rows)} rows")
        return products.rows_of_tiles(self.tiles, ids_T, self.in_dim)

    def stored_dense(self) -> torch.Tensor:
        """The plain weight in the dtype in which it is stored."""
        return products.from_tiles(self.tiles, sum(self.part_rows), self.in_dim)

    def dense(self, first: int = 0, last: int | None = None) -> torch.Tensor:
        return self.stored_dense()[..., first:last, :].to(self.dtype)

    def take(self, expert: int) -> Tiled:
        if len(self.shape) == 2:
            raise ConfigError("a matrix in tiles is no stack of experts")
        return Tiled(self.tiles[expert], self.part_rows, self.in_dim, self.compute_dtype)

    def shard(self, axis: ShardAxis, rank: int, size: int) -> Weights:
        parts = self.stored_dense().split(self.part_rows, dim=AXIS_PLACES["out"])
        return tiled(*(narrowed(part, axis, rank, size).contiguous() for part in parts), dtype=self.compute_dtype)

    def product(self, x_TD: torch.Tensor, bias_O: torch.Tensor | None = None) -> torch.Tensor:
        """Raises BackendUnavailable when a gradient is asked: it would not reach the weights."""
        if len(self.shape) == 3:
            raise ConfigError("a stack of experts multiplies grouped rows")
        self._refuse_gradient(x_TD)
        if not backends.uses_native(x_TD):  # the choice has changed since
            return rows.linear(x_TD, self.dense(), bias_O)
        return products.product(x_TD, self._stored, None if bias_O is None else bias_O.detach())

    def widened(self, x_TD: torch.Tensor) -> torch.Tensor:
        """Raises BackendUnavailable when a gradient is asked."""
        if x_TD.dtype != torch.bfloat16 or self.tiles.dtype != torch.bfloat16:
            return super().widened(x_TD)
        self._refuse_gradient(x_TD)
        if not backends.uses_native(x_TD):  # the choice has changed since
            return rows.linear_widened(x_TD, self.stored_dense())
        return products.product(x_TD, self._stored, dtype=torch.float32)

    def grouped(self, x_AD: torch.Tensor, spans: Spans) -> torch.Tensor:
        self._refuse_gradient(x_AD)
        if not backends.uses_native(x_AD):
            return super().grouped(x_AD, spans)
        return products.product(x_AD, self._stored, spans_S3=span_tensor(spans))

    def _refuse_gradient(self, x_TD: torch.Tensor) -> None:
        if torch.is_grad_enabled() and x_TD.requires_grad:
            raise BackendUnavailable("packed weights have no gradient; call model.unpack() before training")


def tiled(*parts: torch.Tensor, dtype: torch.dtype | None = None) -> Tiled:
    """Matrices [O_i, D] over one another, or stacks of them, in tiles. dtype: of the product; None: the parts' own."""
    stored_dtype = functools.reduce(torch.promote_types, (part.dtype for part in parts))
    parts = tuple(part.detach().to(stored_dtype) for part in parts)
    part_rows = tuple(part.shape[-2] for part in parts)
    return Tiled(in_tiles(*parts), part_rows, parts[0].shape[-1], dtype or stored_dtype)
