"""Kimi Delta Attention: linear attention with a decay per key channel and error-correcting writes."""

from __future__ import annotations

import torch

from hyla.grid import BLOCK, CHUNK
from hyla.ops.batch import Batch


def kda(q_THK, k_THK, v_THV, log_decay_THK, beta_TH, *, batch: Batch, cache=None, scale: float) -> torch.Tensor:
    """Read and update a KDA memory over a packed batch.

    S <- diag(exp(a_t)) S;  S <- S + k_t (beta_t (v_t - S^T k_t))^T;  o_t = scale S^T q_t
    Source: arXiv 2510.26692, eq. 1; chunk form and one-row form: ops/kda/README.md.

    Args:
        q_THK, k_THK: [T, H, K], fp32 (float64 without a cache), L2-normalised by the caller.
        v_THV: [T, H, V].
        log_decay_THK: [T, H, K], natural log, <= 0 (any size: -50 a token is fine).  beta_TH: [T, H], in [0, 1].
        batch: rows, sequences and slots.
        cache: the layer's slot tensors (`cache_tensors`), extended in place; None: whole sequences, differentiable.
        scale: factor on the queries.
    Returns: [T, H, V] in the inputs' dtype.
    Raises: ConfigError for shapes that do not fit.
    Exactness: a row's bits depend on its sequence's tokens alone, not on how they were split or batched.
    Cost: cost.py.
    """
    from hyla.ops.chunks.delta_cached import delta_rule
    from hyla.ops.kda import pytorch

    return delta_rule(pytorch, q_THK, k_THK, v_THV, log_decay_THK, beta_TH, batch=batch, cache=cache, scale=scale)


def cache_tensors(*, num_heads: int, key_dim: int, value_dim: int):
    """What one sequence keeps: (name, shape, dtype, role) of each slot tensor."""
    single, double = torch.float32, torch.float64
    return (
        ("anchor", (num_heads, key_dim, value_dim), single, "anchor"),
        ("u", (num_heads, CHUNK, value_dim), single, "open"),
        ("x", (num_heads, BLOCK, value_dim), single, "open"),
        ("t", (num_heads, BLOCK, BLOCK), single, "open"),
        ("k_rows", (num_heads, BLOCK, key_dim), single, "open"),
        ("decay_rows", (num_heads, BLOCK, key_dim), single, "open"),
        ("k_scaled", (num_heads, CHUNK // BLOCK, key_dim, BLOCK), single, "open"),
        ("block_sum", (num_heads, CHUNK // BLOCK, key_dim), double, "open"),
    )
