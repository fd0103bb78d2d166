"""DeepSeek Sparse Attention over a packed batch: a lightning indexer selects keys, attention reads only those."""

from __future__ import annotations

import torch

from hyla.errors import ConfigError, RequestError
from hyla.grid import CHUNK
from hyla.ops.attention.pages import PagedKV, scratch_pages
from hyla.ops.attention.plan import AttentionPlan, HeadLayout, attention_plan
from hyla.ops.attention.pytorch import write_rows
from hyla.ops.backends import choose, is_portable
from hyla.ops.batch import Batch
from hyla.ops.exact.batched import bmm_rows
from hyla.ops.sparse.divergence import Divergence
from hyla.ops.sparse.gradient import SelectedAttention
from hyla.ops.sparse.pytorch import FlatKeys, PagedKeys
from hyla.ops.sparse.selection import Selection, select_rows

__all__ = ["Selection", "index_divergence", "select_keys", "sparse_attention"]


@torch.no_grad()
def select_keys(
    q_THI: torch.Tensor,
    k_TI: torch.Tensor,
    weights_TH: torch.Tensor,
    *,
    batch: Batch,
    cache: torch.Tensor | None,
    scale: float,
    num_selected: int,
) -> Selection:
    """The keys with the largest index scores among a row's own and all earlier positions.

    score_ts = sum_h w_th relu((scale q_th) . k_s), s <= t; the min(num_selected, t + 1) largest, ties to the lower s.
    Source: DeepSeek-V3.2, arXiv 2512.02556, section 2.1.

    Args:
        q_THI: [T, H, I] index queries, fp32 or float64.
        k_TI: [T, I] new index keys in the dtype that they are cached in.
        weights_TH: [T, H] head weights, any sign, in the dtype of the queries.
        batch: which rows belong to which sequence.
        cache: None (whole sequences), or index key pages [P, I, 64] in the keys' dtype. The new rows are written to
            `batch.pages` at their positions, then read with the older ones: mutated.
        scale: factor on the queries, > 0.
        num_selected: most keys of a row, >= 1.

    Returns: a `Selection`. A constant: it has no gradient, neither to the scores nor to anything they were made from.
    Raises: ConfigError when shapes do not fit or pages are missing; RequestError when the batch starts past 0 and
        there is no cache.
    Cost: cost.py. Exactness: a row's scores have the same bits for every way it arrives, so its selection is the same.
    """
    _check_index(q_THI, k_TI, weights_TH, batch, num_selected)
    pages = None if cache is None else cache[:, None]
    _check_pages("index key pages", pages, k_TI, batch)
    plan = _plan(q_THI, batch)
    if pages is None:
        keys = scratch_pages(k_TI[:, None], None, plan.num_pages)
        keys.clear_null_page()
    else:
        keys = PagedKV(pages, None)
    write_rows(keys, k_TI[:, None], None, plan.write)
    q_RI = (q_THI * scale).flatten(0, 1)
    return select_rows(q_RI, weights_TH.flatten(), keys.k_pages[:, 0], plan, batch, num_selected)


def sparse_attention(
    q_THK: torch.Tensor,
    k_TK: torch.Tensor,
    selection: Selection,
    *,
    batch: Batch,
    cache: torch.Tensor | None,
    scale: float,
    value_dim: int,
) -> torch.Tensor:
    """Softmax attention of every row over its selected keys; the values are the first `value_dim` channels of the keys.

    o_t = sum_{s in S_t} exp(a_ts - m_t) c_s / sum_{s in S_t} exp(a_ts - m_t),  a_ts = (scale q_t) . k_s,  c_s = k_s[:V]
    Source: DeepSeek-V3.2, arXiv 2512.02556, section 2.1, over absorbed MLA (arXiv 2405.04434, 2.1). There
    is no dense shortcut: a short context takes the same path with all of its keys.

    Args:
        q_THK: [T, H, K], fp32 or float64 (bf16 is widened).
        k_TK: [T, K] new keys in the dtype that they are cached in; all heads share them.
        selection: of `select_keys`, for the same batch.
        batch: which rows belong to which sequence.
        cache: None (whole sequences), or key pages [P, 1, K, 64] in the keys' dtype, as of `ops.attention`: mutated.
        scale: factor on the scores.
        value_dim: V <= K.

    Returns: o [T, H, V] in fp32 (float64 for float64 queries).
    Raises: as `select_keys`.
    Cost: cost.py. Exactness: a row has the same bits for every way it arrives, with and without autograd. Gradients
    flow to q and k through the selected attention, and only without a cache; the selection itself is a constant.
    """
    _check_attention(q_THK, k_TK, selection, batch, value_dim)
    _check_pages("key pages", cache, k_TK, batch)
    if cache is None:
        if torch.is_grad_enabled() and (q_THK.requires_grad or k_TK.requires_grad):
            return SelectedAttention.apply(q_THK, k_TK, selection, batch, scale, value_dim)
        keys = FlatKeys(k_TK, batch)
    else:
        with torch.no_grad():
            write_rows(PagedKV(cache, None), k_TK[:, None], None, _plan(q_THK, batch).write)
            keys = PagedKeys(cache[:, 0], batch)
    with torch.no_grad():
        return choose("sparse", q_THK, k_TK).forward(q_THK, keys, selection, scale, value_dim).o_THV


def index_divergence(
    q_THI: torch.Tensor,
    k_TI: torch.Tensor,
    weights_TH: torch.Tensor,
    queries_THK: torch.Tensor,
    keys_TK: torch.Tensor,
    *,
    batch: Batch,
    selection: Selection | None,
    scale: float,
    attention_scale: float,
) -> torch.Tensor:
    """KL(p_t || softmax(I_t)) of every row: how badly index scores tell what attention reads, which trains an indexer.

    I_ts = sum_h w_th relu((scale q_th) . k_s);  p_ts = sum_h softmax(attention_scale q'_th . k'_s), made to sum to one;
    over s in S_t, or without a selection over all s <= t. Source: DeepSeek-V3.2, arXiv 2512.02556, section 2.1.1.

    Args:
        q_THI: [T, H, I] index queries, fp32 or float64.
        k_TI: [T, I] index keys in the dtype that they are cached in.
        weights_TH: [T, H] head weights, in the dtype of the queries.
        queries_THK, keys_TK: [T, Hq, K] and [T, K] of the attention, as `sparse_attention` has them. Constants.
        batch: which rows belong to which sequence; whole sequences.
        selection: of `select_keys` for the same batch, where attention reads those keys alone; None: all.
        scale: factor on the index queries. attention_scale: factor on the attention's scores.

    Returns: [T], nats, in the dtype of the queries; differentiable in q, k and weights.
    Raises: ConfigError when shapes do not fit; RequestError when the batch starts past 0.
    Cost: the scores of both (cost.py), and in the backward pass those again and two more products of the indexer's.
        Memory: a stretch of rows times their keys at a time. Exactness: a row's bits, and those of its
        gradients, do not depend on other sequences.
    """
    _check_index(q_THI, k_TI, weights_TH, batch, 1, "index_divergence")
    _check_pages("keys", None, keys_TK, batch)
    _check_attention(queries_THK, keys_TK, selection, batch, 1, "index_divergence")
    queries_THK = queries_THK.detach().to(q_THI.dtype)
    return Divergence.apply(
        q_THI, k_TI, weights_TH, queries_THK, keys_TK.detach(), selection, batch, scale, attention_scale
    )


def _plan(q_THI: torch.Tensor, batch: Batch) -> AttentionPlan:
    """How index queries meet pages of keys: the plan of softmax attention with one key head."""
    heads, dim = q_THI.shape[1:]
    counts = (1,)
    if q_THI.dtype != torch.float64 and not is_portable(q_THI.device):
        counts = bmm_rows(dim, CHUNK, torch.float32, q_THI.device, torch.get_num_threads())
    layout = HeadLayout(num_kv_heads=1, group_heads=heads, key_dim=dim, value_dim=1, row_counts=counts)
    return attention_plan(batch, layout)


def _check_index(q_THI, k_TI, weights_TH, batch: Batch, num_selected: int, name: str = "select_keys") -> None:
    tokens, heads, dim = q_THI.shape
    fits = k_TI.shape == (tokens, dim) and weights_TH.shape == (tokens, heads) and tokens == batch.num_tokens
    if not fits or num_selected < 1:
        raise ConfigError(
            f"{name}: shapes do not fit: q {list(q_THI.shape)}, k {list(k_TI.shape)}, weights "
            f"{list(weights_TH.shape)}, {batch.num_tokens} tokens, num_selected {num_selected}"
        )


def _check_attention(
    q_THK, k_TK, selection: Selection | None, batch: Batch, value_dim: int, name: str = "sparse_attention"
) -> None:
    tokens, _, dim = q_THK.shape
    selected = tokens if selection is None else len(selection.counts)
    fits = k_TK.shape == (tokens, dim) and tokens == batch.num_tokens == selected
    if not fits or not 1 <= value_dim <= dim:
        raise ConfigError(
            f"{name}: shapes do not fit: q {list(q_THK.shape)}, k {list(k_TK.shape)}, value_dim {value_dim}, "
            f"{batch.num_tokens} tokens, a selection of {selected}"
        )


def _check_pages(name: str, pages: torch.Tensor | None, k_TK: torch.Tensor, batch: Batch) -> None:
    if pages is None:
        if any(batch.starts):
            raise RequestError(f"a batch that starts at {batch.starts} needs a cache with the earlier {name}")
        return
    if batch.pages is None:
        raise ConfigError(f"{name} were given, but the batch has no pages; make it with cache.batch(...)")
    wanted = (1, k_TK.shape[1], CHUNK)
    if tuple(pages.shape[1:]) != wanted or pages.dtype != k_TK.dtype:
        raise ConfigError(f"{name} are {list(pages.shape)} {pages.dtype}; they must be [P, {wanted}] {k_TK.dtype}")
