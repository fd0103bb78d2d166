"""The pages of a packed batch: those of a cache, or, without one, a numbering of scratch pages."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, chain

import torch

from hyla.errors import ConfigError
from hyla.grid import CHUNK
from hyla.ops.batch import Batch


@dataclass(frozen=True)
class PageTable:
    """The pages of a batch on the host, for native kernels; int64."""

    first_N: torch.Tensor
    """Where each sequence's pages begin in the list of all."""
    pages: torch.Tensor
    highest: int
    """The largest page number."""


def page_table(batch: Batch, window: int | None) -> PageTable:
    """The page table of the layers with this window; kept on the batch."""
    named = window if window in batch.window_pages else None
    return batch.memo(("page table", named), lambda: _make_page_table(batch, named))


def _make_page_table(batch: Batch, window: int | None) -> PageTable:
    lists = page_lists(batch, window)
    first_N = torch.tensor([0, *accumulate(len(ids) for ids in lists)][:-1])
    pages = torch.tensor(list(chain.from_iterable(lists)))
    return PageTable(first_N, pages, int(pages.max()))


def page_lists(batch: Batch, window: int | None) -> list[tuple[int, ...]]:
    """The pages of each sequence, exactly as many as it needs after this call."""
    counts = [-(-end // CHUNK) for end in batch.ends]
    tables = batch.pages_of(window)
    if tables is None:
        firsts = [1 + sum(counts[:n]) for n in range(len(counts))]
        return [tuple(range(first, first + count)) for first, count in zip(firsts, counts)]
    for n, count in enumerate(counts):
        if len(tables[n]) < count:
            raise ConfigError(
                f"attention: sequence {n} needs {count} pages for {batch.ends[n]} tokens and has "
                f"{len(tables[n])}; reserve pages before the call"
            )
    return [tuple(pages[:count]) for pages, count in zip(tables, counts)]
