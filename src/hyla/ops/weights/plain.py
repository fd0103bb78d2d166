"""Plain tensors: what is trained, and what every other kind is compared with."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hyla.errors import ConfigError
from hyla.ops import backends
from hyla.ops.exact import rows
from hyla.ops.native import launching, products
from hyla.ops.weights.protocol import AXIS_PLACES, ShardAxis, Spans, Weights, shard_bounds, span_tensor


def narrowed(tensor: torch.Tensor, axis: ShardAxis, rank: int, size: int) -> torch.Tensor:
    """One rank's equal part of a weight [.., O, D]; a view."""
    if axis == "expert" and tensor.dim() < 3:
        raise ConfigError(f"a matrix {tuple(tensor.shape)} has no experts to divide")
    place = AXIS_PLACES[axis]
    first, last = shard_bounds(tensor.shape[place], rank, size)
    return tensor.narrow(place, first, last - first)


@dataclass(frozen=True, eq=False)
class Plain(Weights):
    """Matrices, or stacks of them, over one another. Differentiable."""

    parts: tuple[torch.Tensor, ...]
    """[O_i, D] each, or [E, O_i, D]."""
    compute_dtype: torch.dtype | None = None
    """The dtype of the product; None: the parts' own."""

    @property
    def shape(self) -> tuple[int, ...]:
        *lead, _, inner = self.parts[0].shape
        return (*lead, sum(part.shape[-2] for part in self.parts), inner)

    @property
    def dtype(self) -> torch.dtype:
        return self.compute_dtype or self.parts[0].dtype

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)

    @property
    def requires_grad(self) -> bool:
        return any(part.requires_grad for part in self.parts)

    def whole(self) -> torch.Tensor:
        """All parts as one tensor in the dtype of the product, with its gradient."""
        whole = torch.cat(self.parts, dim=-2) if self.parts[1:] else self.parts[0]
        return whole if self.compute_dtype is None else whole.to(self.compute_dtype)

    def dense(self, first: int = 0, last: int | None = None) -> torch.Tensor:
        return self.whole().detach()[..., first:last, :]

    def take(self, expert: int) -> Plain:
        return Plain(tuple(part[expert] for part in self.parts), self.compute_dtype)

    def shard(self, axis: ShardAxis, rank: int, size: int) -> Plain:
        return Plain(tuple(narrowed(part, axis, rank, size) for part in self.parts), self.compute_dtype)

    def product(self, x_TD: torch.Tensor, bias_O: torch.Tensor | None = None) -> torch.Tensor:
        return rows.linear(x_TD, self.whole(), bias_O)

    def widened(self, x_TD: torch.Tensor) -> torch.Tensor:
        if x_TD.dtype != torch.bfloat16 or any(part.dtype != torch.bfloat16 for part in self.parts):
            return super().widened(x_TD)
        return rows.linear_widened(x_TD, Plain(self.parts).whole())

    def grouped(self, x_AD: torch.Tensor, spans: Spans) -> torch.Tensor:
        wants_gradient = torch.is_grad_enabled() and any(x.requires_grad for x in (x_AD, *self.parts))
        if wants_gradient or self.dtype != self.parts[0].dtype or not backends.uses_native(x_AD):
            return super().grouped(x_AD, spans)
        spans_S3, start = span_tensor(spans), 0
        y_AO = launching.empty((x_AD.shape[0], self.shape[-2]), x_AD.dtype)
        for part in self.parts:  # each where it is: a stack is large, and a token needs little of it
            stored, stop = products.plain(part.detach()), start + part.shape[-2]
            products.product(x_AD, stored, spans_S3=spans_S3, out_TO=y_AO[:, start:stop])
            start = stop
        return y_AO
