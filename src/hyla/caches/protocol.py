"""The contract of a cache pool: open, batch, commit, rollback, fork, checkpoint, resume, close, nbytes."""

from __future__ import annotations

from collections.abc import Sequence as List
from dataclasses import dataclass, field
from typing import Protocol

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
    """One past the furthest position that any forward call has written; what a rollback can
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

    def checkpoint(self, sequence: Sequence, unit: int | None) -> Checkpoint:
        """Keep the state after the last multiple of 64 committed tokens. unit: a snapshot that the caller took from the
        ledger; None exactly when no layer keeps more than pages. Its window pages are kept on top."""
        ...

    def drop_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Let its window pages and its snapshot go."""
        ...

    def resume(self, pages: List[int], checkpoint: Checkpoint | None) -> Sequence:
        """A new sequence after 64 tokens per page, that shares the pages and goes on exactly as the one that was kept.
        Raises CapacityError, taking nothing."""
        ...

    def close(self, sequence: Sequence) -> None:
        """Give pages and slot back and make the sequence unusable."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors of the pool."""
        ...
