"""Depthwise causal convolution with a few taps over a packed batch."""

from __future__ import annotations

from typing import Literal, overload

import torch

from hyla.errors import ConfigError
from hyla.ops.backends import choose
from hyla.ops.batch import Batch
from hyla.ops.short_conv.gradient import ShortConv
from hyla.ops.short_conv.plan import RING, check_taps, conv_plan
from hyla.ops.short_conv.state import behind_ring, check_state, last_inputs, ring_of

__all__ = ["RING", "conv_plan", "short_conv"]


@overload
def short_conv(
    x_TC: torch.Tensor,
    weight_CL: torch.Tensor,
    *,
    batch: Batch,
    cache: torch.Tensor | None,
    tail: torch.Tensor | None = None,
    state: torch.Tensor | None = None,
    return_state: Literal[False] = False,
) -> torch.Tensor: ...


@overload
def short_conv(
    x_TC: torch.Tensor,
    weight_CL: torch.Tensor,
    *,
    batch: Batch,
    cache: torch.Tensor | None,
    tail: torch.Tensor | None = None,
    state: torch.Tensor | None = None,
    return_state: Literal[True],
) -> tuple[torch.Tensor, torch.Tensor]: ...


def short_conv(
    x_TC: torch.Tensor,
    weight_CL: torch.Tensor,
    *,
    batch: Batch,
    cache: torch.Tensor | None,
    tail: torch.Tensor | None = None,
    state: torch.Tensor | None = None,
    return_state: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Mix every channel with its last L - 1 inputs; a sequence never sees another one.

    y_t = sum_{j=0}^{L-1} w[:, j] x_{t-(L-1)+j}, added in this order; inputs before position 0 are zeros.
    Source: the causal depthwise convolution of H3 (arXiv 2212.14052) and Mamba (arXiv 2312.00752, figure 3); the
    activation that follows it there is the caller's.

    Args:
        x_TC: [T, C], the model's dtype (bf16, fp32 or float64).
        weight_CL: [C, L], L taps, the last one meets the row itself; any float dtype.
        batch: which rows belong to which sequence.
        cache: None (every sequence starts here) or the ring [slots, RING, C] in x's dtype, row = position % RING, slot
            by `batch.slots`. The L - 1 inputs before `batch.starts` are read from it, then the last min(RING, length)
            new inputs are written: mutated. Rows beyond L - 1 leave room for RING - (L - 1) drafts to be rolled back.
        tail: None, or [slots, L - 1, C] in x's dtype beside the ring: the last inputs before the newest multiple of 64
            that a sequence has passed, for a snapshot there. Mutated when this call passes one.
        state: without a cache, [N, L - 1, C] in x's dtype: the inputs before each sequence's first row, at any
            position; None: zeros. Differentiable.
        return_state: give the last L - 1 inputs of each sequence back as well, for its next rows, differentiable.

    Returns: [T, C] in fp32 (float64 for float64); with return_state, that and [N, L - 1, C] in x's dtype.
    Raises: ConfigError when shapes do not fit; RequestError when the batch starts past 0 with neither cache nor state.
    Cost: cost.py. Exactness: bit for bit the same for every way the rows arrive, with and without autograd.
    """
    channels, taps = weight_CL.shape
    if x_TC.shape[1] != channels:
        raise ConfigError(f"short_conv: rows have {x_TC.shape[1]} channels, the weight has {channels}")
    if cache is not None and tuple(cache.shape[1:]) != (RING, channels):
        raise ConfigError(f"short_conv: the cache is {list(cache.shape)}; it must be [slots, {RING}, {channels}]")
    check_taps(taps)
    check_state(batch, cache, state, return_state, x_TC, taps)
    if tail is not None and tuple(tail.shape[1:]) != (taps - 1, channels):
        raise ConfigError(f"short_conv: the tail is {list(tail.shape)}; it must be [slots, {taps - 1}, {channels}]")
    final = last_inputs(x_TC, state, batch, taps) if return_state else None
    if state is not None:
        batch, cache = behind_ring(batch), ring_of(state)
    module, tail = choose("short_conv", x_TC), None if cache is None else tail
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (x_TC, weight_CL, state)):
        y_TC = ShortConv.apply(x_TC, weight_CL, state, module, batch, cache, tail)
    else:
        y_TC = module.forward(x_TC, weight_CL, batch, cache, tail)
    return y_TC if final is None else (y_TC, final)
