"""The pages of a packed batch: those of a cache, or, without one, a numbering of scratch pages."""

from __future__ import annotations

from functools import partial
from itertools import accumulate, chain

import torch

from hyla.errors import ConfigError
from hyla.grid import CHUNK
from hyla.ops.batch import Batch


def page_table(batch: Batch, window: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """int64 on the host, for native kernels of the layers with this window: where each sequence's pages begin in the
    list of all, and the list; kept on the batch."""
    first_N = batch.table("first pages", _first_pages)
    return first_N, batch.table(("pages", window), partial(_pages, window=window))


def highest_page(batch: Batch, window: int | None) -> int:
    """The largest page number."""
    return batch.memo(("highest page", window), lambda: max(map(max, page_lists(batch, window))))


def _first_pages(batch: Batch) -> torch.Tensor:
    """Windows have as many pages, most of them 0."""
    counts = [-(-end // CHUNK) for end in batch.ends]
    return torch.tensor([0, *accumulate(counts)][:-1])


def _pages(batch: Batch, window: int | None) -> torch.Tensor:
    return torch.tensor(list(chain.from_iterable(page_lists(batch, window))))


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
