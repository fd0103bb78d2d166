"""What a pool hands out: a sequence's place in it, and checkpoints. Plain numbers; the tensors are the pool's."""

from __future__ import annotations

from dataclasses import dataclass, field


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
