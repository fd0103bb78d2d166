"""Weights that stay quantised in memory: blockwise FP8 matrices, and the product that dequantises them as it goes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hyla.errors import BackendUnavailable
from hyla.ops import backends
from hyla.ops.exact import rows, summation_order
from hyla.ops.native import kernels
from hyla.ops.quant.fp8 import (
    BLOCK,
    FP8,
    FP8Stack,
    FP8Tensor,
    FP8Weight,
    Shard,
    dequantise,
    num_blocks,
    quantise,
    quantise_with,
    strips,
)

__all__ = [
    "BLOCK",
    "FP8",
    "FP8Stack",
    "FP8Tensor",
    "FP8Weight",
    "Shard",
    "dequantise",
    "grouped",
    "linear",
    "num_blocks",
    "quantise",
    "quantise_with",
    "strips",
]


def _blocks(weight: FP8Weight):
    """(first output, last output + 1) of each library call, the same as for a plain weight of this shape."""
    first = 0
    for size in rows.block_sizes(*weight.shape):
        yield first, first + size
        first += size


def _forward(x_TD: torch.Tensor, weight: FP8Weight) -> torch.Tensor:
    order = _order(x_TD, weight)
    if order is not None:
        return _native(x_TD, weight, torch.tensor([[0, 0, x_TD.shape[0]]]), order)
    parts = [rows.linear(x_TD, weight.dense(first, last)) for first, last in _blocks(weight)]
    return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


def _order(x_TD: torch.Tensor, weight: FP8Weight | FP8Stack) -> int | None:
    """The order of summation of the native product, or None where it cannot be used."""
    stored = [part for part in weight.parts if isinstance(part, FP8Tensor)]
    is_known = all(part.scale.dtype in kernels.SCALE_KINDS and part.dtype == weight.dtype for part in stored)
    if not (is_known and backends.uses_native(x_TD)):
        return None
    return summation_order.chain_order(*weight.shape, x_TD.dtype)


def _native(x_TD: torch.Tensor, weight: FP8Weight | FP8Stack, spans_S3: torch.Tensor, order: int) -> torch.Tensor:
    """Codes become numbers on the way into the product; nothing is written but the result."""
    y_TO, start = x_TD.new_empty(x_TD.shape[0], weight.shape[0]), 0
    for part in weight.parts:
        out_TO = y_TO[:, start : start + part.shape[-2]]
        start += part.shape[-2]
        if isinstance(part, FP8Tensor):
            codes, scale, tiles = part.codes.contiguous(), part.scale.contiguous(), part.tiles()
        else:
            codes, scale = part.detach().to(weight.dtype).contiguous(), None
            tiles = summation_order.tiles(((0, part.shape[-2], 0),))
        kernels.product(x_TD, codes, scale, tiles, spans_S3, order, out_TO)
    return y_TO


class _FP8Linear(torch.autograd.Function):
    """Gradient to x only; the weight is dequantised again in the backward pass instead of being kept."""

    @staticmethod
    def forward(ctx, x_TD, weight: FP8Weight):
        ctx.weight = weight
        return _forward(x_TD, weight)

    @staticmethod
    def backward(ctx, grad_TO):
        grads = [grad_TO[:, first:last] @ ctx.weight.dense(first, last) for first, last in _blocks(ctx.weight)]
        return sum(grads[1:], grads[0]), None


def linear(x_TD: torch.Tensor, weight: torch.Tensor | rows.Packed | FP8Weight) -> torch.Tensor:
    """x W^T for rows x [T, D] and a weight [O, D] that is plain, packed (`ops.exact.rows`) or FP8; returns [T, O].

    W = codes * scale[row // 128, column // 128], rounded once to the weight's dtype, which is x's as well.
    Source: the published format of DeepSeek-V3, arXiv 2412.19437, section 3.3.

    Args: x_TD: the weight's dtype. weight: an `FP8Weight` has no gradient, x has.
    Returns: [T, O] in x's dtype.
    Raises: BackendUnavailable when x and an FP8 weight differ in dtype.
    Cost: cost.py; without the native product a temporary of at most `rows.BLOCK_ELEMENTS` weights in its dtype.
    Exactness: bit for bit `ops.exact.rows.linear` with the dequantised weight, on every backend.
    """
    if not isinstance(weight, FP8Weight):
        return rows.linear(x_TD, weight)
    if x_TD.dtype != weight.dtype:
        raise BackendUnavailable(
            f"rows in {x_TD.dtype} cannot meet an FP8 weight that stands for {weight.dtype}; load the model with dtype="
        )
    if torch.is_grad_enabled() and x_TD.requires_grad:
        return _FP8Linear.apply(x_TD, weight)
    return _forward(x_TD, weight)


def grouped(x_AD: torch.Tensor, spans: Sequence[tuple[int, int, int]], weight: FP8Stack) -> torch.Tensor:
    """`linear` for rows by expert: spans (expert, first row, last row + 1), which cover the rows in order -> [A, O]."""
    order = None
    if not (torch.is_grad_enabled() and x_AD.requires_grad) and x_AD.dtype == weight.dtype:
        order = _order(x_AD, weight)
    if order is not None:
        return _native(x_AD, weight, torch.tensor(spans), order)
    parts = [linear(x_AD[first:last], weight[expert]) for expert, first, last in spans]
    return torch.cat(parts) if len(parts) > 1 else parts[0]
