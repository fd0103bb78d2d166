"""Weights that stay quantised in memory: blockwise FP8 matrices, and the product that dequantises them as it goes."""

from __future__ import annotations

import torch

from hyla.errors import BackendUnavailable
from hyla.ops import rows
from hyla.ops.quant.fp8 import BLOCK, FP8, FP8Tensor, FP8Weight, dequantise, num_blocks, quantise, quantise_with

__all__ = [
    "BLOCK",
    "FP8",
    "FP8Tensor",
    "FP8Weight",
    "dequantise",
    "linear",
    "num_blocks",
    "quantise",
    "quantise_with",
]


def _blocks(weight: FP8Weight):
    """(first output, last output + 1) of each library call, the same as for a plain weight of this shape."""
    first = 0
    for size in rows.block_sizes(*weight.shape):
        yield first, first + size
        first += size


def _forward(x_TD: torch.Tensor, weight: FP8Weight) -> torch.Tensor:
    parts = [rows.linear(x_TD, weight.dense(first, last)) for first, last in _blocks(weight)]
    return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


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
    """x W^T for rows x [T, D] and a weight [O, D] that is plain, packed (`ops.rows`) or FP8; returns [T, O].

    W = codes * scale[row // 128, column // 128], rounded once to the weight's dtype, which is x's as well.
    Source: the published format of DeepSeek-V3, arXiv 2412.19437, section 3.3.

    Args: x_TD: the weight's dtype. weight: an `FP8Weight` has no gradient, x has.
    Returns: [T, O] in x's dtype.
    Raises: BackendUnavailable when x and an FP8 weight differ in dtype.
    Cost: cost.py; a temporary of at most `ops.rows.BLOCK_ELEMENTS` weights in the product's dtype.
    Exactness: bit for bit `ops.rows.linear` with the dequantised weight.
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
