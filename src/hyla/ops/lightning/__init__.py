"""Lightning attention: linear attention with a constant decay per head."""

from __future__ import annotations

from typing import Literal, overload

import torch

from hyla.errors import ConfigError
from hyla.grid import CHUNK
from hyla.ops.backends import choose
from hyla.ops.batch import Batch
from hyla.ops.chunks.constant_decay import ConstantDecay, decay_table
from hyla.ops.chunks.decay_function import decay_attention
from hyla.ops.slots import SlotTensors


@overload
def lightning(
    q_THK,
    k_THK,
    v_THV,
    slopes: tuple[float, ...],
    *,
    batch: Batch,
    cache=None,
    scale: float,
    state: torch.Tensor | None = None,
    return_state: Literal[False] = False,
) -> torch.Tensor: ...


@overload
def lightning(
    q_THK,
    k_THK,
    v_THV,
    slopes: tuple[float, ...],
    *,
    batch: Batch,
    cache=None,
    scale: float,
    state: torch.Tensor | None = None,
    return_state: Literal[True],
) -> tuple[torch.Tensor, torch.Tensor]: ...


def lightning(
    q_THK,
    k_THK,
    v_THV,
    slopes: tuple[float, ...],
    *,
    batch: Batch,
    cache=None,
    scale: float,
    state: torch.Tensor | None = None,
    return_state: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Read and update a linear-attention memory that decays by exp(-slope) at every token.

    S <- exp(-s_h) S + k_t v_t^T;  o_t = scale S^T q_t: the current token is not decayed.
    Source: arXiv 2401.04658, eq. 3; chunk form and one-row form: ops/lightning/README.md.

    Args:
        q_THK, k_THK: [T, H, K], fp32 (float64 without a cache).
        v_THV: [T, H, V].
        slopes: s_h >= 0 of each head, as Python floats: constants of a layer, without gradient.
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
    if q_THK.shape != k_THK.shape or q_THK.shape[:2] != (tokens, heads) or len(slopes) != heads:
        raise ConfigError(
            f"lightning: shapes do not fit: q {tuple(q_THK.shape)}, k {tuple(k_THK.shape)}, v {tuple(v_THV.shape)}, "
            f"{len(slopes)} slopes"
        )
    if tokens != batch.num_tokens:
        raise ConfigError(f"lightning: {tokens} rows for a batch of {batch.num_tokens} tokens")
    rule = ConstantDecay(decay_table(tuple(slopes), v_THV.dtype, v_THV.device))
    return decay_attention(
        "lightning",
        choose("lightning", v_THV, k_THK),
        rule,
        (q_THK, k_THK, v_THV),
        scale=scale,
        batch=batch,
        cache=cache,
        state_NHKV=state,
        return_state=return_state,
    )


def cache_tensors(*, num_heads: int, key_dim: int, value_dim: int) -> SlotTensors:
    """What one sequence keeps: (name, shape, dtype, role) of each slot tensor.

    The open rows are plain keys and values: they can go back to any length above the anchor's.
    """
    single = torch.float32
    return (
        ("anchor", (num_heads, key_dim, value_dim), single, "anchor"),
        ("k_t", (num_heads, key_dim, CHUNK), single, "kv"),
        ("v", (num_heads, CHUNK, value_dim), single, "kv"),
    )
