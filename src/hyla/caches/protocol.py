"""The contract of a cache pool: open, batch, commit, rollback, snapshot, restore, close, nbytes."""

from __future__ import annotations

from collections.abc import Sequence as List
from dataclasses import dataclass, field
from typing import Protocol

import torch

from hyla.caches.ledger import Ledger
from hyla.layers.protocol import LayerCache
from hyla.ops.batch import Batch


@dataclass(eq=False)
class Sequence:
    """One sequence's place in a pool. Only the pool changes it."""

    slot: int
    pages: list[int] = field(default_factory=list)
    length: int = 0
    """Committed tokens."""
    written: int = 0
    """One past the furthest position that any forward call has written since the last restore; what a rollback can
    undo is counted from here, because later writes replaced earlier rows in the rings."""
    pending: int = 0
    """Rows of the last `batch` that are not committed yet."""
    is_valid: bool = True
    """An address is not a state: False from `close` on, and every use is then an error."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A sequence's whole state, copied: independent of the pool's pages and slots."""

    length: int
    written: int
    slot_tensors: tuple[dict[str, torch.Tensor], ...]
    """One dict per layer, name -> [*shape]."""
    page_tensors: tuple[dict[str, torch.Tensor], ...]
    """One dict per layer, name -> [num_pages, *shape]."""

    @property
    def nbytes(self) -> int:
        layers = (*self.slot_tensors, *self.page_tensors)
        return sum(tensor.nbytes for layer in layers for tensor in layer.values())


class CachePool(Protocol):
    """Pages and slots of all mixers of a model.

    `layers` is what a forward call takes: per mixer a dict name -> tensor, [pages + 1, *shape] or [slots + 1, *shape],
    where row 0 is the null row. Between `batch` and `commit` the new rows are written but do not count.
    """

    layers: tuple[LayerCache, ...]
    ledger: Ledger

    def open(self) -> Sequence:
        """A new, empty sequence with a zeroed slot. Raises CapacityError when no slot is free."""
        ...

    def batch(self, parts: List[tuple[Sequence, int]]) -> Batch:
        """Reserve (and zero) pages for (sequence, new tokens) and describe the forward call that writes them.
        Raises CapacityError, reserving nothing, when pages are short."""
        ...

    def commit(self, sequence: Sequence, num_tokens: int) -> None:
        """The first num_tokens rows written by the last forward call count from now on; the rest is forgotten.
        Raises HylaError when that would need rows that are gone (see `rollback`)."""
        ...

    def rollback(self, sequence: Sequence, length: int) -> None:
        """Move the cursor back. Raises HylaError below `oldest_length`, changing nothing."""
        ...

    def oldest_length(self, sequence: Sequence) -> int:
        """The shortest length that `rollback` can restore now."""
        ...

    def snapshot(self, sequence: Sequence) -> Snapshot:
        """Copy the committed state, at any length."""
        ...

    def restore(self, snapshot: Snapshot) -> Sequence:
        """A new sequence that goes on exactly as the copied one would. Raises CapacityError, taking nothing."""
        ...

    def close(self, sequence: Sequence) -> None:
        """Give pages and slot back and make the sequence unusable."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors of the pool."""
        ...
