"""Gated delta rule: linear attention with a scalar decay per head and error-correcting writes."""

from __future__ import annotations

from typing import Literal, overload

import torch

from hyla.grid import BLOCK, CHUNK
from hyla.ops.backends import choose
from hyla.ops.batch import Batch
from hyla.ops.chunks.delta_function import delta_rule
from hyla.ops.slots import SlotTensors


@overload
def gated_delta(
    q_THK,
    k_THK,
    v_THV,
    log_decay_TH,
    beta_TH,
    *,
    batch: Batch,
    cache=None,
    scale: float,
    state: torch.Tensor | None = None,
    return_state: Literal[False] = False,
) -> torch.Tensor: ...


@overload
def gated_delta(
    q_THK,
    k_THK,
    v_THV,
    log_decay_TH,
    beta_TH,
    *,
    batch: Batch,
    cache=None,
    scale: float,
    state: torch.Tensor | None = None,
    return_state: Literal[True],
) -> tuple[torch.Tensor, torch.Tensor]: ...


def gated_delta(
    q_THK,
    k_THK,
    v_THV,
    log_decay_TH,
    beta_TH,
    *,
    batch: Batch,
    cache=None,
    scale: float,
    state: torch.Tensor | None = None,
    return_state: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Read and update a gated delta-rule memory over a packed batch.

    S <- exp(a_t) S;  S <- S + k_t (beta_t (v_t - S^T k_t))^T;  o_t = scale S^T q_t
    Source: arXiv 2412.06464, eq. 10; chunk form and one-row form: ops/gated_delta/README.md.

    Args:
        q_THK, k_THK: [T, Hk, K], fp32 (float64 without a cache), L2-normalised by the caller.
        v_THV: [T, Hv, V]; Hv a multiple of Hk, value head h reads key head h // (Hv / Hk).
        log_decay_TH: [T, Hv], natural log, <= 0.  beta_TH: [T, Hv], in [0, 2].
        batch: rows, sequences and slots.
        cache: the layer's slot tensors (`cache_tensors`), extended in place; None: whole sequences, differentiable.
        scale: factor on the queries.
        state: without a cache, [N, Hv, K, V] in the inputs' dtype: what each sequence's memory holds before its first
            row, at a multiple of 64. None: nothing. Differentiable.
        return_state: give the memories after each sequence's last row back as well, [N, Hv, K, V], differentiable.
    Returns: [T, Hv, V] in the inputs' dtype; with return_state, that and the states.
    Raises: ConfigError for shapes that do not fit; RequestError for a batch that starts past 0 with neither cache nor
        state, or that takes a state up inside a chunk.
    Exactness: a row's bits depend on its sequence's tokens alone, not on how they were split or batched,
        nor on how a document was cut at multiples of 64 and its state handed on.
    Cost: cost.py.
    """
    return delta_rule(
        "gated_delta",
        choose("gated_delta", v_THV, k_THK),
        (q_THK, k_THK, v_THV, log_decay_TH, beta_TH),
        batch=batch,
        cache=cache,
        scale=scale,
        state_NHKV=state,
        return_state=return_state,
    )


def cache_tensors(*, num_key_heads: int, num_value_heads: int, key_dim: int, value_dim: int) -> SlotTensors:
    """What one sequence keeps: (name, shape, dtype, role) of each slot tensor."""
    single, double = torch.float32, torch.float64
    return (
        ("anchor", (num_value_heads, key_dim, value_dim), single, "anchor"),
        ("u", (num_value_heads, CHUNK, value_dim), single, "open"),
        ("x", (num_value_heads, BLOCK, value_dim), single, "open"),
        ("t", (num_value_heads, BLOCK, BLOCK), single, "open"),
        ("k_t", (num_key_heads, key_dim, CHUNK), single, "open"),
        ("decay_sum", (num_value_heads, CHUNK), double, "open"),
    )
