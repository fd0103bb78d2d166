"""Pages and a checkpoint out of a pool as named tensors, and back into the same or another pool of the same layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Sequence as List
from math import prod

import torch

from hyla.caches.page_tables import first_window_page
from hyla.caches.pool import Cache
from hyla.caches.sequence import Checkpoint
from hyla.grid import CHUNK

Layout = dict[str, tuple[torch.dtype, tuple[int, ...]]]
"""By tensor name: dtype and shape."""


def num_kept_window_pages(depth: int, window: int) -> int:
    """Pages of a window that a checkpoint after `depth` pages keeps: the last ones."""
    return depth - min(first_window_page(depth * CHUNK, window), depth)


def _page_tensors(cache: Cache) -> Iterator[tuple[str, int | None, torch.Tensor]]:
    """(name, window, [pages + 1, *shape]) of every page tensor."""
    for number, (spec, layer) in enumerate(zip(cache.specs, cache.layers)):
        for tensor in spec.page_tensors:
            yield f"{number}.page.{tensor.name}", spec.window, layer[tensor.name]


def _snapshot_tensors(cache: Cache) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, [snapshots + 1, *shape]) of every tensor that a snapshot has."""
    for number, layer in enumerate(cache.snapshots.layers):
        for name, parts in layer.items():
            for part, tensor in parts.items():
                yield f"{number}.snapshot.{name}.{part}", tensor


def layout(cache: Cache, num_pages: int, depth: int) -> Layout:
    """What `copy_out` gives for `num_pages` pages that end after `depth`, and the checkpoint there."""
    windows = {window: num_kept_window_pages(depth, window) for window in cache.ledger.windows}
    counts = {None: num_pages, **windows}
    found: Layout = {n: (t.dtype, (counts[w], *t.shape[1:])) for n, w, t in _page_tensors(cache)}
    return found | {name: (tensor.dtype, tuple(tensor.shape[1:])) for name, tensor in _snapshot_tensors(cache)}


def layout_bytes(tensors: Layout) -> int:
    return sum(prod(shape) * dtype.itemsize for dtype, shape in tensors.values())


def copy_out(cache: Cache, pages: List[int], checkpoint: Checkpoint | None) -> dict[str, torch.Tensor]:
    """Copies in host memory: the pages, and the checkpoint's window pages and snapshot where there is one."""
    kept: dict[int | None, list[int]] = {None: list(pages)}
    for window, table in checkpoint.window_pages if checkpoint is not None else ():
        kept[window] = [page for page in table if page]
    index = {w: torch.tensor(ids, dtype=torch.int64, device=cache.device) for w, ids in kept.items()}
    found = {name: tensor[index[window]].cpu() for name, window, tensor in _page_tensors(cache)}
    if checkpoint is not None and checkpoint.unit is not None:
        found |= {name: tensor[checkpoint.unit].clone().cpu() for name, tensor in _snapshot_tensors(cache)}
    return found


def copy_pages_in(
    cache: Cache, tensors: Mapping[str, torch.Tensor], pages: List[int], first: int, window: int | None = None
) -> None:
    """Fill pages of a window from stored ones, starting at the stored page `first`."""
    index = torch.tensor(pages, dtype=torch.int64, device=cache.device)
    for name, layer_window, tensor in _page_tensors(cache):
        if layer_window == window:
            tensor[index] = tensors[name][first : first + len(pages)].to(cache.device)


def copy_snapshot_in(cache: Cache, tensors: Mapping[str, torch.Tensor], unit: int) -> None:
    """Fill a snapshot from a stored one."""
    for name, tensor in _snapshot_tensors(cache):
        tensor[unit] = tensors[name].to(cache.device)
