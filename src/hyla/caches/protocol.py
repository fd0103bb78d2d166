"""The contract of a cache pool: open, batch, commit, rollback, fork, snapshot, restore, close, nbytes."""

from __future__ import annotations

from collections.abc import Sequence as List
from dataclasses import dataclass, field
from typing import Protocol

import torch

from hyla.caches.ledger import Ledger
from hyla.layers.protocol import LayerCache
from hyla.ops.batch import Batch


@dataclass
class Backup:
    """A slot as it was before rows were written that may be rejected."""

    slot: int
    length: int
    written: int


@dataclass(eq=False)
class Sequence:
    """One sequence's place in a pool. Only the pool changes it."""

    slot: int
    tables: dict[int | None, list[int]] = field(default_factory=lambda: {None: []})
    """Pages by window (None: layers that see everything). A page behind its window is given back and stands as 0."""
    length: int = 0
    """Committed tokens."""
    written: int = 0
    """One past the furthest position that any forward call has written since the last restore; what a rollback can
    undo is counted from here, because later writes replaced earlier rows in the rings."""
    pending: int = 0
    """Rows of the last `batch` that are not committed yet."""
    backup: Backup | None = None
    """Between `batch` and `commit` of rows that could not be undone otherwise."""
    is_valid: bool = True
    """An address is not a state: False from `close` on, and every use is then an error."""

    @property
    def pages(self) -> list[int]:
        """Pages of the layers that see everything."""
        return self.tables[None]


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A sequence's whole state, copied: independent of the pool's pages and slots."""

    length: int
    written: int
    places: dict[int | None, tuple[int, ...]]
    """By window: which pages of the sequence are kept."""
    slot_tensors: tuple[dict[str, torch.Tensor], ...]
    """One dict per layer, name -> [*shape]."""
    page_tensors: tuple[dict[str, torch.Tensor], ...]
    """One dict per layer, name -> [num_pages, *shape]."""

    @property
    def nbytes(self) -> int:
        layers = (*self.slot_tensors, *self.page_tensors)
        return sum(tensor.nbytes for layer in layers for tensor in layer.values())


@dataclass(frozen=True)
class Checkpoint:
    """A state after a multiple of 64 tokens, kept inside the pool by the prefix cache."""

    length: int
    unit: int | None
    """Its snapshot; None for a model without recurrent layers."""
    window_pages: tuple[tuple[int, tuple[int, ...]], ...]
    """(window, the sequence's table of pages, 0 for those behind it)."""


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

    def batch(self, parts: List[tuple[Sequence, int]], certain: List[int] | None = None) -> Batch:
        """Reserve (and zero) pages for (sequence, new tokens) and describe the forward call that writes them.

        certain: of each part, how many rows will be committed for sure (all by default); where the others could not be
        undone, the slot is copied first, into a free one (`needs_backup` tells).
        Raises CapacityError, reserving nothing, when pages or slots are short.
        """
        ...

    def needs_backup(self, sequence: Sequence, certain: int, uncertain: int) -> bool:
        """Whether a batch of these rows would copy the slot."""
        ...

    def commit(self, sequence: Sequence, num_tokens: int) -> None:
        """The first num_tokens rows written by the last forward call count from now on; the rest is forgotten. When
        only a backup can forget it, the sequence is afterwards as long as before the call: its accepted tokens are to
        be computed again. Raises HylaError when that would need rows that are gone (see `rollback`)."""
        ...

    def rollback(self, sequence: Sequence, length: int) -> None:
        """Move the cursor back. Raises HylaError below `oldest_length`, changing nothing."""
        ...

    def oldest_length(self, sequence: Sequence) -> int:
        """The shortest length that `rollback` can restore now."""
        ...

    def fork(self, sequence: Sequence) -> Sequence:
        """Another sequence with the same tokens, that shares the full pages. Raises CapacityError, taking nothing."""
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
