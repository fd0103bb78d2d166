"""Keys and values of one layer in pages of 64 positions: a cache's, or a call's own."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hyla.grid import CHUNK


@dataclass(frozen=True)
class PagedKV:
    """Pages of keys and values of one layer; page 0 is the null page and holds zeros.

    Keys stand transposed, so that the right operand of the score product is row-major.
    """

    k_pages: torch.Tensor
    """[P, G, K, 64]."""
    v_pages: torch.Tensor | None
    """[P, G, 64, V], or None: the values are the first channels of the keys (MLA)."""

    def clear_null_page(self) -> None:
        """Page 0 of fresh memory; what a batched product reads in the place of a missing page."""
        for pages in (self.k_pages, self.v_pages):
            if pages is not None:
                pages[0].zero_()


def scratch_pages(k_TGK: torch.Tensor, v_TGV: torch.Tensor | None, count: int) -> PagedKV:
    """Uninitialised pages for a batch without a cache, the null page included; the caller writes before it reads."""
    _, heads, key_dim = k_TGK.shape
    k_pages = k_TGK.new_empty(count, heads, key_dim, CHUNK)
    return PagedKV(k_pages, None if v_TGV is None else v_TGV.new_empty(count, heads, CHUNK, v_TGV.shape[2]))
