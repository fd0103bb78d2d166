"""Gated linear attention: linear attention with a decay per key channel."""

from __future__ import annotations

from typing import Literal, overload

import torch

from hyla.errors import ConfigError
from hyla.grid import CHUNK
from hyla.ops.backends import choose
from hyla.ops.batch import Batch
from hyla.ops.chunks.decay_function import decay_attention
from hyla.ops.gla.rule import ChannelDecay
from hyla.ops.slots import SlotTensors


@overload
def gla(
    q_THK,
    k_THK,
    v_THV,
    log_decay_THK,
    *,
    batch: Batch,
    cache=None,
    scale: float,
    state: torch.Tensor | None = None,
    return_state: Literal[False] = False,
) -> torch.Tensor: ...


@overload
def gla(
    q_THK,
    k_THK,
    v_THV,
    log_decay_THK,
    *,
    batch: Batch,
    cache=None,
    scale: float,
    state: torch.Tensor | None = None,
    return_state: Literal[True],
) -> tuple[torch.Tensor, torch.Tensor]: ...


def gla(
    q_THK,
    k_THK,
    v_THV,
    log_decay_THK,
    *,
    batch: Batch,
    cache=None,
    scale: float,
    state: torch.Tensor | None = None,
    return_state: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Read and update a linear-attention memory whose key channels decay each by its own rate.

    S <- diag(exp(a_t)) S + k_t v_t^T;  o_t = scale S^T q_t: the current token is not decayed.
    Source: arXiv 2312.06635, eq. 3; chunk form and one-row form: ops/gla/README.md.

    Args:
        q_THK, k_THK: [T, H, K], fp32 (float64 without a cache).
        v_THV: [T, H, V].
        log_decay_THK: [T, H, K], natural log, <= 0 (any size: -50 a token is fine).
        batch: rows, sequences and slots.
        cache: the layer's slot tensors (`cache_tensors`), extended in place; None: whole sequences, differentiable.
        scale: factor on the queries.
        state: without a cache, [N, H, K, V] in the inputs' dtype: what each sequence's memory holds before its first
            row, at a multiple of 64. None: nothing. Differentiable.
        return_state: give the memories after each sequence's last row back as well, [N, H, K, V], differentiable.
    Returns: [T, H, V] in the inputs' dtype; with return_state, that and the states.
    Raises: ConfigError for shapes that do not fit; RequestError for a batch that starts past 0 with neither cache nor
        state, or that takes a state up inside a chunk.
    Exactness: a row's bits depend on its sequence's tokens alone, not on how they were split or batched, nor on how a
        document was cut at multiples of 64 and its state handed on.
    Cost: cost.py.
    """
    tokens, heads = v_THV.shape[:2]
    if not q_THK.shape == k_THK.shape == log_decay_THK.shape or q_THK.shape[:2] != (tokens, heads):
        raise ConfigError(
            f"gla: shapes do not fit: q {tuple(q_THK.shape)}, k {tuple(k_THK.shape)}, v {tuple(v_THV.shape)}, "
            f"log_decay {tuple(log_decay_THK.shape)}"
        )
    if tokens != batch.num_tokens:
        raise ConfigError(f"gla: {tokens} rows for a batch of {batch.num_tokens} tokens")
    return decay_attention(
        "gla",
        choose("gla", v_THV, k_THK),
        ChannelDecay(),
        (q_THK, k_THK, v_THV, log_decay_THK),
        scale=scale,
        batch=batch,
        cache=cache,
        state_NHKV=state,
        return_state=return_state,
    )


def cache_tensors(*, num_heads: int, key_dim: int, value_dim: int) -> SlotTensors:
    """What one sequence keeps: (name, shape, dtype, role) of each slot tensor.

    The open rows are plain keys, values and log decays: they can go back to any length above the anchor's.
    """
    single = torch.float32
    return (
        ("anchor", (num_heads, key_dim, value_dim), single, "anchor"),
        ("k", (num_heads, CHUNK, key_dim), single, "kv"),
        ("v", (num_heads, CHUNK, value_dim), single, "kv"),
        ("log_decay", (num_heads, CHUNK, key_dim), single, "kv"),
    )
