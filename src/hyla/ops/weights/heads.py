"""One matrix a head, over that head's own rows, in fp32 (float64 for float64): what absorbs MLA's keys and values."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from hyla.errors import BackendUnavailable, ConfigError
from hyla.ops import backends
from hyla.ops.exact.batched import bmm
from hyla.ops.exact.primitives import wide
from hyla.ops.native import products
from hyla.ops.native.tiles import in_tiles
from hyla.ops.weights.plain import Plain, narrowed
from hyla.ops.weights.protocol import ShardAxis, Weights, refuse_bias


@dataclass(frozen=True, eq=False)
class HeadMatrices(Weights):
    """Plain, and differentiable. Stored [H, in, out], or [H, out, in] with `is_transposed`."""

    stored: torch.Tensor
    is_transposed: bool

    @property
    def shape(self) -> tuple[int, ...]:
        count, first, second = self.stored.shape
        return (count, first, second) if self.is_transposed else (count, second, first)

    @property
    def dtype(self) -> torch.dtype:
        return torch.promote_types(self.stored.dtype, torch.float32)

    @property
    def nbytes(self) -> int:
        return self.stored.nbytes

    @property
    def requires_grad(self) -> bool:
        return self.stored.requires_grad

    def in_place(self) -> torch.Tensor:
        """The parameter's own numbers, as it lays them out."""
        return self.stored

    def _oriented(self) -> torch.Tensor:
        """[H, out, in], a view."""
        return self.stored if self.is_transposed else self.stored.transpose(1, 2)

    def dense(self, first: int = 0, last: int | None = None) -> torch.Tensor:
        return self._oriented().detach()[:, first:last]

    def take(self, expert: int) -> Plain:
        return Plain((self._oriented()[expert],), self.dtype)

    def shard(self, axis: ShardAxis, rank: int, size: int) -> HeadMatrices:
        _refuse_other_axes(axis)
        return HeadMatrices(narrowed(self.stored, axis, rank, size), self.is_transposed)

    def product(
        self, x_TD: torch.Tensor, bias_O: torch.Tensor | None = None, *, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """fp32 rows [T, H, in] -> [T, H, out]. out: a view with dense rows to write to, where no gradient is asked."""
        refuse_bias(bias_O)
        if torch.is_grad_enabled() and (x_TD.requires_grad or self.stored.requires_grad):
            return _placed(_HeadProduct.apply(x_TD, self._oriented()), out)
        return _products(x_TD, self._oriented(), out)


@dataclass(frozen=True, eq=False)
class HeadTiles(Weights):
    """In the tiles of the CPU's own kernel, in the dtype in which they are stored. For inference only."""

    tiles: torch.Tensor
    out_dim: int
    in_dim: int
    is_transposed: bool
    """How the parameter lies, as in `HeadMatrices`."""

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.tiles.shape[0], self.out_dim, self.in_dim)

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    @property
    def nbytes(self) -> int:
        return self.tiles.nbytes

    @property
    def requires_grad(self) -> bool:
        return False

    @cached_property
    def _stored(self) -> products.Stored:
        return products.Stored(self.tiles, self.shape, is_tiled=True)

    def in_place(self) -> torch.Tensor:
        """The parameter's own numbers, as it lays them out."""
        weight_HOI = products.from_tiles(self.tiles, self.out_dim, self.in_dim)
        return weight_HOI if self.is_transposed else weight_HOI.transpose(1, 2).contiguous()

    def dense(self, first: int = 0, last: int | None = None) -> torch.Tensor:
        return products.from_tiles(self.tiles, self.out_dim, self.in_dim)[:, first:last]

    def take(self, expert: int) -> Plain:
        return Plain((self.dense()[expert],), self.dtype)

    def shard(self, axis: ShardAxis, rank: int, size: int) -> HeadTiles:
        _refuse_other_axes(axis)
        return HeadTiles(narrowed(self.tiles, axis, rank, size), self.out_dim, self.in_dim, self.is_transposed)

    def product(
        self, x_TD: torch.Tensor, bias_O: torch.Tensor | None = None, *, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """As `HeadMatrices.product`. Raises BackendUnavailable when a gradient is asked."""
        refuse_bias(bias_O)
        if torch.is_grad_enabled() and x_TD.requires_grad:
            raise BackendUnavailable("packed weights have no gradient; call model.unpack() before training")
        if not backends.uses_native(x_TD):  # the choice has changed since
            return HeadMatrices(self.in_place(), self.is_transposed).product(x_TD, out=out)
        return products.head_product(x_TD, self._stored, out)


def pack_heads(stored: torch.Tensor, is_transposed: bool) -> HeadMatrices | HeadTiles:
    """Matrices of heads for inference: in tiles, with their own bytes, where our kernel computes; else in fp32."""
    if not backends.uses_native(stored):
        # No layout of a library's, but fp32: bf16 weights are not widened again at every call.
        return HeadMatrices(wide(stored), is_transposed)
    weight_HOI = (stored if is_transposed else stored.transpose(1, 2)).contiguous()
    _, out_dim, in_dim = weight_HOI.shape
    return HeadTiles(in_tiles(weight_HOI), out_dim, in_dim, is_transposed)


def _refuse_other_axes(axis: ShardAxis) -> None:
    if axis != "expert":
        raise ConfigError("matrices of heads are divided by heads only")


def _placed(y_THO: torch.Tensor, out_THO: torch.Tensor | None) -> torch.Tensor:
    return y_THO if out_THO is None else out_THO.copy_(y_THO)


def _products(x_THI: torch.Tensor, weight_HOI: torch.Tensor, out_THO: torch.Tensor | None = None) -> torch.Tensor:
    """Every head's rows times its matrix, which is read as it lies: it may be a transposed view."""
    if backends.uses_native(x_THI):
        return products.head_product(x_THI, products.plain(weight_HOI.detach()), out_THO)
    # The two layouts are different calls of the library, so the stored one is kept.
    return _placed(bmm(x_THI.transpose(0, 1), wide(weight_HOI.detach()).mT).transpose(0, 1), out_THO)


class _HeadProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_THI, weight_HOI):
        ctx.save_for_backward(x_THI, weight_HOI)
        return _products(x_THI, weight_HOI)

    @staticmethod
    def backward(ctx, grad_THO):
        x_THI, weight_HOI = ctx.saved_tensors
        grad_x, grad_weight = None, None
        if ctx.needs_input_grad[0]:
            grad_x = _products(grad_THO, weight_HOI.mT)
        if ctx.needs_input_grad[1]:
            grad_weight = torch.bmm(grad_THO.permute(1, 2, 0), x_THI.transpose(0, 1)).to(weight_HOI.dtype)
        return grad_x, grad_weight
