"""Weights that stay FP8 in memory, and the product that turns their codes into numbers as it goes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from hyla.errors import BackendUnavailable, ConfigError
from hyla.ops import backends
from hyla.ops.exact import gradients, rows
from hyla.ops.native import products
from hyla.ops.weights.fp8_codes import FP8Tensor
from hyla.ops.weights.plain import narrowed
from hyla.ops.weights.protocol import AXIS_PLACES, ShardAxis, Spans, Weights, shard_bounds, span_tensor

Part = torch.Tensor | FP8Tensor


@dataclass(frozen=True, eq=False)
class FP8Weights(Weights):
    """Matrices or stacks of them over one another, some or all of them FP8. Rows have a gradient, weights have none.

    W = codes * scale[row // 128, column // 128], rounded once to the weight's dtype, which is the rows' as well.
    Source: the published format of DeepSeek-V3, arXiv 2412.19437, section 3.3.
    Cost: cost.py; without the native product a temporary of at most `rows.BLOCK_ELEMENTS` weights in its dtype.
    """

    parts: tuple[Part, ...]
    """[O_i, D] each, or [E, O_i, D]."""
    compute_dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        *lead, _, inner = self.parts[0].shape
        return (*lead, sum(part.shape[-2] for part in self.parts), inner)

    @property
    def dtype(self) -> torch.dtype:
        return self.compute_dtype

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)

    def dense(self, first: int = 0, last: int | None = None) -> torch.Tensor:
        if len(self.shape) == 3:
            return torch.stack([self.take(expert).dense(first, last) for expert in range(self.shape[0])])
        found, start, last = [], 0, self.shape[0] if last is None else last
        for part in self.parts:
            low, high = max(first - start, 0), min(last - start, part.shape[0])
            if low < high:
                plain = part.rows(low, high) if isinstance(part, FP8Tensor) else part.detach()[low:high]
                found.append(plain.to(self.dtype))
            start += part.shape[0]
        return torch.cat(found) if len(found) > 1 else found[0]

    def take(self, expert: int) -> FP8Weights:
        return FP8Weights(tuple(part[expert] for part in self.parts), self.dtype)

    def shard(self, axis: ShardAxis, rank: int, size: int) -> FP8Weights:
        return FP8Weights(tuple(_shard(part, axis, rank, size) for part in self.parts), self.dtype)

    def product(self, x_TD: torch.Tensor, bias_O: torch.Tensor | None = None) -> torch.Tensor:
        """Raises BackendUnavailable for rows of another dtype."""
        if x_TD.dtype != self.dtype:
            raise BackendUnavailable(
                f"rows in {x_TD.dtype} cannot meet an FP8 weight that stands for {self.dtype}; "
                "load the model with dtype="
            )
        if torch.is_grad_enabled() and (x_TD.requires_grad or (bias_O is not None and bias_O.requires_grad)):
            return _FP8Linear.apply(x_TD, bias_O, self)
        return _forward(x_TD, bias_O, self)

    def widened(self, x_TD: torch.Tensor) -> torch.Tensor:
        if x_TD.dtype != torch.bfloat16 or any(part.dtype != torch.bfloat16 for part in self.parts):
            return super().widened(x_TD)
        blocks = [self.dense(*block).to(torch.bfloat16) for block in _blocks(self)]  # exact: they were rounded to it
        return torch.cat([rows.linear_widened(x_TD, block) for block in blocks], dim=1)

    def grouped(self, x_AD: torch.Tensor, spans: Spans) -> torch.Tensor:
        wants_gradient = torch.is_grad_enabled() and x_AD.requires_grad
        if not wants_gradient and x_AD.dtype == self.dtype and _has_kernel(x_AD, self):
            return _native(x_AD, self, span_tensor(spans))
        return super().grouped(x_AD, spans)


def _shard(part: Part, axis: ShardAxis, rank: int, size: int) -> Part:
    if isinstance(part, torch.Tensor):
        return narrowed(part, axis, rank, size)
    if axis == "expert" and len(part.shape) < 3:
        raise ConfigError(f"a matrix {part.shape} has no experts to divide")
    first, last = shard_bounds(part.shape[AXIS_PLACES[axis]], rank, size)
    if axis == "expert":
        return FP8Tensor(part.codes[first:last], part.scale[first:last], part.dtype, part.shard)
    return part.cut_rows(first, last) if axis == "out" else part.cut_columns(first, last)


def _blocks(weight: FP8Weights) -> Iterator[tuple[int, int]]:
    """(first output, last output + 1) of each library call, the same as for a plain weight of this shape."""
    first = 0
    for size in rows.block_sizes(weight.shape[0], weight.shape[1]):
        yield first, first + size
        first += size


def _forward(x_TD: torch.Tensor, bias_O: torch.Tensor | None, weight: FP8Weights) -> torch.Tensor:
    if _has_kernel(x_TD, weight):
        return _native(x_TD, weight, None, bias_O)
    places = [slice(*block) for block in _blocks(weight)]
    biases = [None if bias_O is None else bias_O[place] for place in places]
    parts = [rows.linear(x_TD, weight.dense(place.start, place.stop), b) for place, b in zip(places, biases)]
    return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


def _has_kernel(x_TD: torch.Tensor, weight: FP8Weights) -> bool:
    """Whether codes become numbers on the way into the product; nothing is written then but the result."""
    stored = [part for part in weight.parts if isinstance(part, FP8Tensor)]
    is_known = all(part.scale.dtype in products.SCALE_KINDS and part.dtype == weight.dtype for part in stored)
    return is_known and backends.uses_native(x_TD)


def _native(
    x_TD: torch.Tensor, weight: FP8Weights, spans_S3: torch.Tensor | None, bias_O: torch.Tensor | None = None
) -> torch.Tensor:
    y_TO, start = x_TD.new_empty(x_TD.shape[0], weight.shape[-2]), 0
    for part in weight.parts:
        place = slice(start, start + part.shape[-2])
        start = place.stop
        if isinstance(part, FP8Tensor):
            stored = part.stored()
        else:
            plain = part.detach().to(weight.dtype).contiguous()
            stored = products.Stored(plain, plain.shape)
        bias = None if bias_O is None else bias_O.detach()[place]
        products.product(x_TD, stored, bias, spans_S3=spans_S3, out_TO=y_TO[:, place])
    return y_TO


class _FP8Linear(torch.autograd.Function):
    """Gradient to x and the bias; the weight is dequantised again in the backward pass instead of being kept."""

    @staticmethod
    def forward(ctx, x_TD, bias_O, weight: FP8Weights):
        ctx.weight, ctx.bias_dtype = weight, None if bias_O is None else bias_O.dtype
        return _forward(x_TD, bias_O, weight)

    @staticmethod
    def backward(ctx, grad_TO):
        grad_bias = gradients.bias_gradient(grad_TO, ctx.bias_dtype) if ctx.needs_input_grad[1] else None
        if not ctx.needs_input_grad[0]:
            return None, grad_bias, None
        grads = [
            gradients.matmul(grad_TO[:, first:last], ctx.weight.dense(first, last))
            for first, last in _blocks(ctx.weight)
        ]
        return sum(grads[1:], grads[0]), grad_bias, None
