"""Linear attention with positive features and a normaliser: the recurrence of "Transformers are RNNs"."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch.nn.functional import pad

from hyla.errors import ConfigError
from hyla.grid import CHUNK
from hyla.ops.backends import choose
from hyla.ops.batch import Batch
from hyla.ops.chunks.constant_decay import ConstantDecay, decay_table
from hyla.ops.chunks.decay_function import decay_attention
from hyla.ops.linear.cost import row_width
from hyla.ops.slots import SlotTensors


def elu_plus_one(x: torch.Tensor) -> torch.Tensor:
    """phi(x) = elu(x) + 1: x + 1 for x > 0, else exp(x). Any shape, in x's dtype (callers pass fp32 or float64).

    Composed of exp and comparisons, so that an element's bits do not depend on its place; plain autograd, finite
    everywhere. Source: arXiv 2006.16236, eq. 7.
    """
    return torch.where(x > 0.0, x + 1.0, torch.exp(x.clamp_max(0.0)))


@overload
def linear_attention(
    q_THK,
    k_THK,
    v_THV,
    *,
    batch: Batch,
    cache=None,
    eps: float,
    state: torch.Tensor | None = None,
    return_state: Literal[False] = False,
) -> torch.Tensor: ...


@overload
def linear_attention(
    q_THK,
    k_THK,
    v_THV,
    *,
    batch: Batch,
    cache=None,
    eps: float,
    state: torch.Tensor | None = None,
    return_state: Literal[True],
) -> tuple[torch.Tensor, torch.Tensor]: ...


def linear_attention(
    q_THK,
    k_THK,
    v_THV,
    *,
    batch: Batch,
    cache=None,
    eps: float,
    state: torch.Tensor | None = None,
    return_state: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Read and update a linear-attention memory over a packed batch.

    S_t = S_{t-1} + k_t v_t^T;  z_t = z_{t-1} + k_t;  o_t = S_t^T q_t / (z_t . q_t + eps)
    Source: arXiv 2006.16236, eqs. 9 and 16 to 20, of which eps is our addition; chunks: ops/linear/README.md.

    Args:
        q_THK, k_THK: [T, H, K], fp32 (float64 without a cache), the features phi(q) and phi(k), >= 0.
        v_THV: [T, H, V], same dtype.
        batch: rows, sequences and slots.
        cache: the layer's slot tensors (`cache_tensors`), extended in place; None: whole sequences, differentiable.
        eps: added to the normaliser, > 0.
        state: without a cache, [N, H, K, W] in the inputs' dtype: S and z (channel V, then zeros; W is
            `cost.row_width`) of each sequence before its first row, at a multiple of 64. None: nothing. Differentiable.
        return_state: give the memories after each sequence's last row back as well, [N, H, K, W], differentiable.
    Returns: [T, H, V] in the inputs' dtype; with return_state, that and the states.
    Raises: ConfigError for shapes that do not fit; RequestError for a batch that starts past 0 with neither cache nor
        state, or that takes a state up inside a chunk.
    Exactness: a row's bits depend on its sequence's tokens alone, not on how they were split or batched, nor on how a
        document was cut at multiples of 64 and its state handed on.
    Cost: cost.py.
    """
    _check(q_THK, k_THK, v_THV, batch)
    heads, value_dim = v_THV.shape[1:]
    rows_THW = pad(pad(v_THV, (0, 1), value=1.0), (0, row_width(value_dim) - value_dim - 1))
    found = decay_attention(
        "linear attention",
        choose("linear", v_THV, k_THK),
        ConstantDecay(decay_table((0.0,) * heads, v_THV.dtype, v_THV.device)),
        (q_THK, k_THK, rows_THW),
        batch=batch,
        cache=cache,
        state_NHKV=state,
        return_state=return_state,
    )
    sums_THW, final_NHKW = found if isinstance(found, tuple) else (found, None)
    o_THV = sums_THW[..., :value_dim] / (sums_THW[..., value_dim : value_dim + 1] + eps)
    return o_THV if final_NHKW is None else (o_THV, final_NHKW)


def _check(q, k, v, batch: Batch) -> None:
    if q.shape != k.shape or q.shape[:2] != v.shape[:2]:
        raise ConfigError(
            f"linear attention: shapes do not fit: q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
        )
    if q.shape[0] != batch.num_tokens:
        raise ConfigError(f"linear attention: {q.shape[0]} rows for a batch of {batch.num_tokens} tokens")


def cache_tensors(*, num_heads: int, key_dim: int, value_dim: int) -> SlotTensors:
    """What one sequence keeps: (name, shape, dtype, role) of each slot tensor. Column `value_dim` counts the keys.

    The open rows are plain keys and values: they can go back to any length above the anchor's.
    """
    single, width = torch.float32, row_width(value_dim)
    return (
        ("anchor", (num_heads, key_dim, width), single, "anchor"),
        ("k_t", (num_heads, key_dim, CHUNK), single, "kv"),
        ("v", (num_heads, CHUNK, width), single, "kv"),
    )
