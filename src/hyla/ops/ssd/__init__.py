"""State space dual (Mamba-2): linear attention with a scalar decay per head, keys and queries shared by groups."""

from __future__ import annotations

from typing import Literal, overload

import torch

from hyla.errors import ConfigError
from hyla.grid import CHUNK
from hyla.ops.backends import choose
from hyla.ops.batch import Batch
from hyla.ops.chunks.decay_function import decay_attention
from hyla.ops.slots import SlotTensors
from hyla.ops.ssd.rule import SummedDecay

__all__ = ["cache_tensors", "ssd"]


@overload
def ssd(
    q_TGK,
    k_TGK,
    v_THV,
    log_decay_TH,
    *,
    batch: Batch,
    cache=None,
    state: torch.Tensor | None = None,
    return_state: Literal[False] = False,
) -> torch.Tensor: ...


@overload
def ssd(
    q_TGK,
    k_TGK,
    v_THV,
    log_decay_TH,
    *,
    batch: Batch,
    cache=None,
    state: torch.Tensor | None = None,
    return_state: Literal[True],
) -> tuple[torch.Tensor, torch.Tensor]: ...


def ssd(
    q_TGK,
    k_TGK,
    v_THV,
    log_decay_TH,
    *,
    batch: Batch,
    cache=None,
    state: torch.Tensor | None = None,
    return_state: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Read and update a decaying memory over a packed batch.

    S_t = exp(a_t) S_{t-1} + k_t v_t^T;  o_t = S_t^T q_t
    Source: arXiv 2405.21060, eqs. 1 and 2, in its section 7.2's head pattern (B and C shared by groups of heads). In
    its letters: q = C_t, k = B_t, v = dt_t x_t, a = A dt_t; the D x_t skip belongs to the layer. v comes multiplied by
    dt, so that an open row is one tensor and no second rate is kept. Chunk form: ops/ssd/README.md.

    Args:
        q_TGK, k_TGK: [T, G, K], fp32 (float64 without a cache). K is the paper's state size N.
        v_THV: [T, H, V]; H a multiple of G, head h reads group h // (H / G).
        log_decay_TH: [T, H], natural log, <= 0.
        batch: rows, sequences and slots.
        cache: the layer's slot tensors (`cache_tensors`), extended in place; None: whole sequences, differentiable.
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
    _check(q_TGK, k_TGK, v_THV, log_decay_TH, batch)
    return decay_attention(
        "ssd",
        choose("ssd", v_THV, k_TGK),
        SummedDecay(),
        (q_TGK, k_TGK, v_THV, log_decay_TH),
        batch=batch,
        cache=cache,
        state_NHKV=state,
        return_state=return_state,
    )


def _check(q, k, v, log_decay, batch: Batch) -> None:
    tokens, heads = v.shape[:2]
    if q.shape != k.shape or q.shape[0] != tokens or heads % k.shape[1] or log_decay.shape != (tokens, heads):
        raise ConfigError(
            f"ssd: shapes do not fit: q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}, "
            f"log_decay {tuple(log_decay.shape)}"
        )
    if tokens != batch.num_tokens:
        raise ConfigError(f"ssd: {tokens} rows for a batch of {batch.num_tokens} tokens")


def cache_tensors(*, num_groups: int, num_heads: int, key_dim: int, value_dim: int) -> SlotTensors:
    """What one sequence keeps: (name, shape, dtype, role) of each slot tensor.

    The open rows are plain keys and values, and sums up to each: they can go back to any length above the anchor's.
    """
    single, double = torch.float32, torch.float64
    return (
        ("anchor", (num_heads, key_dim, value_dim), single, "anchor"),
        ("v", (num_heads, CHUNK, value_dim), single, "kv"),
        ("k_t", (num_groups, key_dim, CHUNK), single, "kv"),
        ("decay_sum", (num_heads, CHUNK), double, "kv"),
    )
