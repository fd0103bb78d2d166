"""Kimi Delta Attention: linear attention with a decay per key channel and error-correcting writes."""

from __future__ import annotations

from typing import Literal, overload

import torch

from hyla.grid import BLOCK, CHUNK
from hyla.ops.backends import choose
from hyla.ops.batch import Batch
from hyla.ops.chunks import channel_decay
from hyla.ops.chunks.delta_function import delta_rule
from hyla.ops.slots import SlotTensors


@overload
def kda(
    q_THK,
    k_THK,
    v_THV,
    log_decay_THK,
    beta_TH,
    *,
    batch: Batch,
    cache=None,
    scale: float,
    state: torch.Tensor | None = None,
    return_state: Literal[False] = False,
) -> torch.Tensor: ...


@overload
def kda(
    q_THK,
    k_THK,
    v_THV,
    log_decay_THK,
    beta_TH,
    *,
    batch: Batch,
    cache=None,
    scale: float,
    state: torch.Tensor | None = None,
    return_state: Literal[True],
) -> tuple[torch.Tensor, torch.Tensor]: ...


def kda(
    q_THK,
    k_THK,
    v_THV,
    log_decay_THK,
    beta_TH,
    *,
    batch: Batch,
    cache=None,
    scale: float,
    state: torch.Tensor | None = None,
    return_state: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Read and update a KDA memory over a packed batch.

    S <- diag(exp(a_t)) S;  S <- S + k_t (beta_t (v_t - S^T k_t))^T;  o_t = scale S^T q_t
    Source: arXiv 2510.26692, eq. 1; chunk form and one-row form: ops/kda/README.md.

    Args:
        q_THK, k_THK: [T, H, K], fp32 (float64 without a cache), L2-normalised by the caller.
        v_THV: [T, H, V].
        log_decay_THK: [T, H, K], natural log, <= 0 (any size: -50 a token is fine).  beta_TH: [T, H], in [0, 2].
        batch: rows, sequences and slots.
        cache: the layer's slot tensors (`cache_tensors`), extended in place; None: whole sequences, differentiable.
        scale: factor on the queries.
        state: without a cache, [N, H, K, V] in the inputs' dtype: what each sequence's memory holds before its first
            row, at a multiple of 64. None: nothing. Differentiable.
        return_state: give the memories after each sequence's last row back as well, [N, H, K, V], differentiable.
    Returns: [T, H, V] in the inputs' dtype; with return_state, that and the states.
    Raises: ConfigError for shapes that do not fit; RequestError for a batch that starts past 0 with neither cache nor
        state, or that takes a state up inside a chunk.
    Exactness: a row's bits depend on its sequence's tokens alone, not on how they were split or batched,
        nor on how a document was cut at multiples of 64 and its state handed on.
    Cost: cost.py.
    """
    return delta_rule(
        "kda",
        choose("kda", v_THV, k_THK),
        (q_THK, k_THK, v_THV, log_decay_THK, beta_TH),
        batch=batch,
        cache=cache,
        scale=scale,
        state_NHKV=state,
        return_state=return_state,
    )


def cache_tensors(*, num_heads: int, key_dim: int, value_dim: int) -> SlotTensors:
    """What one sequence keeps: (name, shape, dtype, role) of each slot tensor."""
    single = torch.float32
    return (
        ("anchor", (num_heads, key_dim, value_dim), single, "anchor"),
        ("u", (num_heads, CHUNK, value_dim), single, "open"),
        ("x", (num_heads, BLOCK, value_dim), single, "open"),
        ("t", (num_heads, BLOCK, BLOCK), single, "open"),
        *channel_decay.cache_tensors(num_heads=num_heads, key_dim=key_dim),
    )
