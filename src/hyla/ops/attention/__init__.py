"""Causal softmax attention over a packed batch: grouped queries, paged keys and values, on the absolute grid."""

from __future__ import annotations

import torch

from hyla.errors import ConfigError, RequestError
from hyla.grid import CHUNK
from hyla.ops.attention.gradient import Attention
from hyla.ops.attention.pages import PagedKV
from hyla.ops.backends import choose
from hyla.ops.batch import Batch

__all__ = ["PagedKV", "attention"]


def attention(
    q_THK: torch.Tensor,
    k_TGK: torch.Tensor,
    v_TGV: torch.Tensor | None,
    *,
    batch: Batch,
    cache: PagedKV | None,
    scale: float,
    value_dim: int | None = None,
    window: int | None = None,
    sinks_H: torch.Tensor | None = None,
) -> torch.Tensor:
    """Every row reads the values of its own and earlier positions of its sequence, all of them or a window's.

    o_t = sum_{j <= t} exp(s_tj - m_t) v_j / sum_{j <= t} exp(s_tj - m_t),  s_tj = (scale q_t) . k_j,  m_t = max_j s_tj
    With a window, j > t - window. A sink is one more score without a value: it joins the maximum and the denominator.
    Query head h reads key head h // (Hq / G). Sums over keys go by pages of 64 positions (README.md).
    Source: arXiv 1706.03762, section 3.2.1; grouped queries arXiv 2305.13245; absorbed MLA arXiv 2405.04434, 2.1;
        sinks as in gpt-oss, arXiv 2508.10925.

    Args:
        q_THK: [T, Hq, K], bf16, fp32 or float64.
        k_TGK: [T, G, K] new keys in the model's dtype, the one they are cached in; G divides Hq.
        v_TGV: [T, G, V] new values, like the keys; None: the values are the first `value_dim` channels of the keys.
        batch: which rows belong to which sequence.
        cache: None (whole sequences), or pages in the keys' dtype. The new rows are written to `batch.pages` at their
            positions, then read with the older ones: mutated. Places past a sequence's end may be overwritten.
        scale: factor on the scores.
        value_dim: V when v_TGV is None.
        window: how many keys a row sees, its own included, >= 1; None: all.
        sinks_H: [Hq], fp32 (float64 for float64 queries): a logit for each query head, not scaled; None: no sinks.

    Returns: o [T, Hq, V] in fp32 (float64 for float64 queries).
    Raises: ConfigError when shapes do not fit or pages are missing; RequestError when the batch starts past 0 and
        there is no cache.
    Cost: cost.py. Exactness: a row has the same bits for every way it arrives, with and without autograd; PyTorch's
        operators and the CPU's own kernel differ by rounding. Gradients flow only without a cache; a cached call is a
        constant.
    """
    value_dim = _check(q_THK, k_TGK, v_TGV, batch, cache, value_dim)
    _check_window_and_sinks(q_THK, window, sinks_H)
    inputs = (q_THK, k_TGK, v_TGV, sinks_H)
    options = {"batch": batch, "scale": scale, "value_dim": value_dim, "window": window}
    backend = choose("attention", q_THK, k_TGK, v_TGV)
    if cache is None and torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs):
        return Attention.apply(*inputs, backend, options)
    with torch.no_grad():
        return backend.forward(*inputs, cache=cache, **options)[0]


def _check(q_THK, k_TGK, v_TGV: torch.Tensor | None, batch: Batch, cache: PagedKV | None, value_dim: int | None) -> int:
    """V."""
    tokens, heads, key_dim = k_TGK.shape
    if v_TGV is not None:
        value_dim = v_TGV.shape[2]
    elif value_dim is None:
        raise ConfigError("attention: give values, or value_dim when they are the first channels of the keys")
    shapes = f"q {list(q_THK.shape)}, k {list(k_TGK.shape)}, v {None if v_TGV is None else list(v_TGV.shape)}"
    fits = q_THK.shape[0] == tokens and q_THK.shape[2] == key_dim and q_THK.shape[1] % heads == 0
    if v_TGV is None:
        fits = fits and value_dim <= key_dim
    else:
        fits = fits and v_TGV.shape[:2] == (tokens, heads) and v_TGV.dtype == k_TGK.dtype
    if not fits:
        raise ConfigError(f"attention: shapes or dtypes do not fit: {shapes}, value_dim {value_dim}")
    if tokens != batch.num_tokens:
        raise ConfigError(f"attention: {tokens} rows for a batch of {batch.num_tokens} tokens")
    if cache is None:
        if any(batch.starts):
            raise RequestError(f"attention: a batch that starts at {batch.starts} needs a cache with the earlier keys")
        return value_dim
    _check_cache(k_TGK, v_TGV, batch, cache, value_dim)
    return value_dim


def _check_window_and_sinks(q_THK: torch.Tensor, window: int | None, sinks_H: torch.Tensor | None) -> None:
    if window is not None and window < 1:
        raise ConfigError(f"attention: window = {window} must be at least 1, the row's own key")
    dtype = torch.float64 if q_THK.dtype == torch.float64 else torch.float32
    if sinks_H is not None and (sinks_H.shape != q_THK.shape[1:2] or sinks_H.dtype != dtype):
        found = f"{list(sinks_H.shape)} {sinks_H.dtype}"
        raise ConfigError(f"attention: sinks are {found}; they must be [{q_THK.shape[1]}] {dtype}")


def _check_cache(k_TGK, v_TGV, batch: Batch, cache: PagedKV, value_dim: int) -> None:
    _, heads, key_dim = k_TGK.shape
    if not batch.is_cached:
        raise ConfigError("attention: a cache was given, but the batch has no pages; make it with cache.batch(...)")
    wanted: dict[str, tuple[torch.Tensor | None, tuple[int, int, int]]]
    wanted = {"k_pages": (cache.k_pages, (heads, key_dim, CHUNK))}
    if v_TGV is not None:
        wanted["v_pages"] = (cache.v_pages, (heads, CHUNK, value_dim))
    for name, (pages, shape) in wanted.items():
        if pages is None or tuple(pages.shape[1:]) != shape or pages.dtype != k_TGK.dtype:
            found = None if pages is None else f"{list(pages.shape)} {pages.dtype}"
            raise ConfigError(f"attention: {name} is {found}; it must be [pages, {list(shape)}] {k_TGK.dtype}")
