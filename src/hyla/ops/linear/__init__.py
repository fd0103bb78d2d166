"""Linear attention with positive features and a normaliser: the recurrence of "Transformers are RNNs"."""

from __future__ import annotations

import torch

from hyla.grid import CHUNK
from hyla.ops.batch import Batch
from hyla.ops.linear.cost import row_width


def elu_plus_one(x: torch.Tensor) -> torch.Tensor:
    """phi(x) = elu(x) + 1: x + 1 for x > 0, else exp(x). Any shape, in x's dtype (callers pass fp32 or float64).

    Composed of exp and comparisons, so that an element's bits do not depend on its place; plain autograd, finite
    everywhere. Source: arXiv 2006.16236, eq. 7.
    """
    return torch.where(x > 0.0, x + 1.0, torch.exp(x.clamp_max(0.0)))


def linear_attention(q_THK, k_THK, v_THV, *, batch: Batch, cache=None, eps: float) -> torch.Tensor:
    """Read and update a linear-attention memory over a packed batch.

    S_t = S_{t-1} + k_t v_t^T;  z_t = z_{t-1} + k_t;  o_t = S_t^T q_t / (z_t . q_t + eps)
    Source: arXiv 2006.16236, eqs. 9 and 16 to 20, of which eps is our addition; chunks: ops/linear/README.md.

    Args:
        q_THK, k_THK: [T, H, K], fp32 (float64 without a cache), the features phi(q) and phi(k), >= 0.
        v_THV: [T, H, V], same dtype.
        batch: rows, sequences and slots.
        cache: the layer's slot tensors (`cache_tensors`), extended in place; None: whole sequences, differentiable.
        eps: added to the normaliser, > 0.
    Returns: [T, H, V] in the inputs' dtype.
    Raises: ConfigError for shapes that do not fit.
    Exactness: a row's bits depend on its sequence's tokens alone, not on how they were split or batched.
    Cost: cost.py.
    """
    from hyla.ops.linear import pytorch

    return pytorch.linear_attention(q_THK, k_THK, v_THV, batch=batch, cache=cache, eps=eps)


def cache_tensors(*, num_heads: int, key_dim: int, value_dim: int):
    """What one sequence keeps: (name, shape, dtype, role) of each slot tensor. Column `value_dim` counts the keys."""
    single, width = torch.float32, row_width(value_dim)
    return (
        ("anchor", (num_heads, key_dim, width), single, "anchor"),
        ("k_t", (num_heads, key_dim, CHUNK), single, "open"),
        ("v", (num_heads, CHUNK, width), single, "open"),
    )
