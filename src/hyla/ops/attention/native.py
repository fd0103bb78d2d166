"""Attention by the CPU's own kernels (ops/native/attention.c and attention_grad.c); pages are read where they lie."""

from __future__ import annotations

from functools import partial

from hyla.errors import ConfigError
from hyla.ops import native
from hyla.ops.attention.page_table import highest_page, page_table
from hyla.ops.attention.pages import PagedKV, scratch_pages
from hyla.ops.batch import Batch
from hyla.ops.native import attentions, kernels

unsupported = native.unsupported


def forward(q_THK, k_TGK, v_TGV, sinks_H, *, batch: Batch, cache: PagedKV | None, scale: float, value_dim: int, window):
    """o [T, Hq, V] and the statistics m, l [T, Hq] (None with a cache). New rows are written to their pages first."""
    pages = scratch_pages(k_TGK, v_TGV, 1 + highest_page(batch, window)) if cache is None else cache
    _check_memory(pages, batch, window)
    return kernels.attention(
        q_THK,
        k_TGK,
        v_TGV,
        page_table(batch, window),
        batch.spans_4N,
        pages.k_pages,
        pages.v_pages,
        scale=scale,
        value_dim=value_dim,
        window=window,
        sinks=sinks_H,
        with_statistics=cache is None,
    )


def backward(grad_o_THV, q_THK, k_TGK, v_TGV, sinks_H, found, *, batch: Batch, scale: float, value_dim: int, window):
    """Gradients of q, k, v and the sinks, fp32; None where there are none. found: what `forward` gave."""
    return attentions.attention_grad(
        grad_o_THV,
        q_THK,
        k_TGK,
        v_TGV,
        sinks_H,
        found,
        batch.spans_4N,
        scale=scale,
        value_dim=value_dim,
        window=window,
    )


def _check_memory(pages: PagedKV, batch: Batch, window: int | None) -> None:
    """The kernel trusts its addresses."""
    counts = [tensor.shape[0] for tensor in (pages.k_pages, pages.v_pages) if tensor is not None]
    for name, tensor in (("k_pages", pages.k_pages), ("v_pages", pages.v_pages)):
        if tensor is not None and not tensor.is_contiguous():
            found = f"{list(tensor.shape)} with strides {tensor.stride()}"
            raise ConfigError(f"attention: {name} is {found}; it must be dense")
    batch.require(("pages below", window, min(counts)), partial(_check_pages, window=window, count=min(counts)))


def _check_pages(batch: Batch, window: int | None, count: int) -> None:
    highest = highest_page(batch, window)
    if highest >= count:
        raise ConfigError(f"attention: the batch has page {highest}, and the cache pages below {count}")
