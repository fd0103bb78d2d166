"""Lightning attention: linear attention with a constant decay per head."""

from __future__ import annotations

import torch

from hyla.errors import ConfigError
from hyla.grid import CHUNK
from hyla.ops.batch import Batch


def lightning(
    q_THK, k_THK, v_THV, slopes: tuple[float, ...], *, batch: Batch, cache=None, scale: float
) -> torch.Tensor:
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
    Returns: [T, H, V] in the inputs' dtype.
    Raises: ConfigError for shapes that do not fit.
    Exactness: a row's bits depend on its sequence's tokens alone, not on how they were split or batched.
    Cost: cost.py.
    """
    from hyla.ops.lightning import pytorch

    tokens, heads = v_THV.shape[:2]
    if q_THK.shape != k_THK.shape or q_THK.shape[:2] != (tokens, heads) or len(slopes) != heads:
        raise ConfigError(
            f"lightning: shapes do not fit: q {tuple(q_THK.shape)}, k {tuple(k_THK.shape)}, v {tuple(v_THV.shape)}, "
            f"{len(slopes)} slopes"
        )
    if tokens != batch.num_tokens:
        raise ConfigError(f"lightning: {tokens} rows for a batch of {batch.num_tokens} tokens")
    return pytorch.attend(q_THK * scale, k_THK, v_THV, tuple(slopes), batch=batch, cache=cache)


def cache_tensors(*, num_heads: int, key_dim: int, value_dim: int):
    """What one sequence keeps: (name, shape, dtype, role) of each slot tensor.

    The open rows are plain keys and values: they can go back to any length above the anchor's.
    """
    single = torch.float32
    return (
        ("anchor", (num_heads, key_dim, value_dim), single, "anchor"),
        ("k_t", (num_heads, key_dim, CHUNK), single, "kv"),
        ("v", (num_heads, CHUNK, value_dim), single, "kv"),
    )
