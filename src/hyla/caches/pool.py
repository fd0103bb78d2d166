"""The cache pool: every mixer's pages and slots behind one set of verbs."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as List
from contextlib import contextmanager

import torch

from hyla.caches.ledger import Ledger, Units
from hyla.caches.protocol import Backup, Checkpoint, Sequence
from hyla.caches.storage import (
    SnapshotDtype,
    SnapshotStore,
    allocate,
    page_bytes,
    slot_bytes,
    snapshot_bytes,
    windows_of,
)
from hyla.errors import CapacityError, ConfigError, HylaError
from hyla.layers.protocol import CacheSpec, LayerCache
from hyla.ops.attention.cost import LOOK_BACK, num_window_pages
from hyla.ops.batch import BLOCK, CHUNK, Batch
from hyla.ops.short_conv import RING

__all__ = ["LOOK_BACK", "Cache", "num_pages_for", "num_window_pages", "page_bytes", "slot_bytes", "snapshot_bytes"]

LONGEST_CONV = 8
"""Taps of the longest short convolution that a config may ask for."""

ROLLBACK_BY_ROLE = {
    "anchor": lambda written: written // CHUNK * CHUNK,
    "open": lambda written: max(written - 1, 0) // BLOCK * BLOCK,
    "conv": lambda written: max(written - RING + LONGEST_CONV - 1, 0),
    "window": lambda written: written // CHUNK * CHUNK,
}
"""Oldest length that each kind of cached tensor can go back to once `written` tokens were written: a closed chunk is
folded into its anchor, the solve keeps one block of 16 rows, the convolution's ring overwrites its oldest input, and
pages behind a window are given back. Other KV pages can go back to any length."""


def num_pages_for(num_tokens: int) -> int:
    """Pages that hold this many tokens.

    >>> num_pages_for(0), num_pages_for(64), num_pages_for(65)
    (0, 1, 2)
    """
    return -(-num_tokens // CHUNK)


def first_window_page(length: int, window: int) -> int:
    """Index of the first page that a row from position floor(length / 64) * 64 - LOOK_BACK on can see."""
    return max(length // CHUNK * CHUNK - window + 1 - LOOK_BACK, 0) // CHUNK


class Cache:
    """A `CachePool` whose tensors live on one device.

    num_pages, num_slots, num_snapshots, num_window_pages (by window): how many can be handed out; one null unit (id 0)
    comes on top of each. Window pages default to as many as the others.
    """

    def __init__(
        self,
        specs: List[CacheSpec],
        *,
        num_pages: int,
        num_slots: int,
        num_snapshots: int = 0,
        num_window_pages: dict[int, int] | None = None,
        snapshot_dtype: SnapshotDtype = "float32",
        device="cpu",
    ):
        if num_pages < 1 or num_slots < 1:
            raise ConfigError(f"a cache needs at least one page and one slot; got {num_pages} and {num_slots}")
        self.specs = tuple(specs)
        self.device = torch.device(device)
        windows = {window: (num_window_pages or {}).get(window, num_pages) for window in windows_of(specs)}
        self.ledger = Ledger(num_pages, num_slots, num_snapshots, windows)
        self.snapshot_dtype: SnapshotDtype = snapshot_dtype
        self.allocate()
        roles = {tensor.role for spec in specs for tensor in spec.slot_tensors} | ({"window"} if windows else set())
        self._limits = tuple(limit for role, limit in ROLLBACK_BY_ROLE.items() if role in roles)
        self.has_states = bool(snapshot_bytes(specs))
        """Some layer keeps more than pages, so that a sequence can only be taken up where there is a snapshot."""

    def allocate(self) -> None:
        """Make the tensors, all zero: at the start, and again after `release`."""
        ledger, specs = self.ledger, self.specs
        counts = [self.units_of(spec.window).total if spec.page_tensors else 0 for spec in specs]
        self._pages = tuple(allocate(spec.page_tensors, count, self.device) for spec, count in zip(specs, counts))
        self._slots = tuple(allocate(spec.slot_tensors, ledger.slots.total, self.device) for spec in specs)
        self.snapshots = SnapshotStore(specs, ledger.snapshots.total, self.snapshot_dtype, self.device)
        self.layers: tuple[LayerCache, ...] = tuple({**p, **s} for p, s in zip(self._pages, self._slots))

    def release(self) -> None:
        """Free the tensors until `allocate`. Raises HylaError while anybody holds a page, a slot or a snapshot."""
        for units in self.ledger.units:
            if units.free < units.total:
                raise HylaError(f"{units.total - units.free} {units.name} are held; close their sequences first")
        self._pages = self._slots = self.layers = ()
        self.snapshots = SnapshotStore((), 0, self.snapshot_dtype, self.device)

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for layer in self.layers for tensor in layer.values()) + self.snapshots.nbytes

    def units_of(self, window: int | None) -> Units:
        """The ledger's pages of a window."""
        return self.ledger.pages if window is None else self.ledger.windows[window]

    def pages_of(self, window: int | None) -> Iterator[torch.Tensor]:
        """Every page tensor of a window."""
        for spec, layer in zip(self.specs, self._pages):
            yield from layer.values() if spec.window == window else ()

    def open(self) -> Sequence:
        (slot,) = self.ledger.slots.take(1)
        with self._undo(self.ledger.slots, [slot]):
            for layer in self._slots:
                for tensor in layer.values():
                    tensor[slot].zero_()
        return Sequence(slot=slot, tables={None: [], **{window: [] for window in self.ledger.windows}})

    @staticmethod
    @contextmanager
    def _undo(units: Units, taken: List[int]) -> Iterator[None]:
        """Give units back when what they were taken for fails."""
        try:
            yield
        except BaseException:
            units.give_back(taken)
            raise

    def batch(self, parts: List[tuple[Sequence, int]], certain: List[int] | None = None) -> Batch:
        sequences = [sequence for sequence, _ in parts]
        for sequence in sequences:
            self._leave_window(sequence)
        if len(set(map(id, sequences))) < len(sequences):
            raise HylaError("a sequence may stand only once in a batch")
        for sequence, num_tokens in parts:
            self._check_valid(sequence)
            self._check_restorable(sequence, sequence.length)
            if num_tokens < 1:
                raise HylaError(f"slot {sequence.slot}: {num_tokens} new tokens; a batch needs at least one each")
        certain = certain or [count for _, count in parts]
        copied = [s for (s, count), sure in zip(parts, certain) if self.needs_backup(s, sure, count - sure)]
        self._reserve(parts, len(copied))
        for sequence in copied:
            self._back_up(sequence)
        for sequence, num_tokens in parts:
            sequence.pending = num_tokens
            sequence.written = max(sequence.written, sequence.length + num_tokens)
        return self.view(sequences, [sequence.length for sequence in sequences], [count for _, count in parts])

    def view(self, sequences: List[Sequence], starts: List[int], lengths: List[int]) -> Batch:
        """A forward call over rows whose pages are reserved already, for layers beside the trunk's: no cursor moves."""
        return Batch(
            lengths=tuple(lengths),
            starts=tuple(starts),
            slots=tuple(sequence.slot for sequence in sequences),
            pages=tuple(tuple(sequence.pages) for sequence in sequences),
            window_pages={w: tuple(tuple(seq.tables[w]) for seq in sequences) for w in self.ledger.windows},
            device=self.device,
        )

    def reserve(self, parts: List[tuple[Sequence, int]]) -> None:
        """Take the pages of (sequence, new tokens) before `batch` does. Raises CapacityError, taking nothing."""
        for sequence, _ in parts:
            self._check_valid(sequence)
            self._leave_window(sequence)
        self._reserve(parts, 0)

    def num_missing_pages(self, sequence: Sequence, num_tokens: int, window: int | None = None) -> int:
        """Pages to be taken before `num_tokens` more rows can be written."""
        return max(num_pages_for(sequence.length + num_tokens) - len(sequence.tables[window]), 0)

    def _reserve(self, parts: List[tuple[Sequence, int]], num_backups: int) -> None:
        """Take the pages of all parts, or nothing."""
        if num_backups > self.ledger.slots.free:
            raise CapacityError(f"{num_backups} spare slots are needed and {self.ledger.slots.free} are free")
        needed = {
            window: [self.num_missing_pages(sequence, count, window) for sequence, count in parts]
            for window in (None, *self.ledger.windows)
        }
        short = next((w for w, counts in needed.items() if sum(counts) > self.units_of(w).free), "none")
        if short != "none":
            self.units_of(short).take(sum(needed[short]))  # raises, naming the numbers
        for window, counts in needed.items():
            new_pages = self._take_pages(sum(counts), window)
            for (sequence, _), count in zip(parts, counts):
                sequence.tables[window] += new_pages[:count]
                new_pages = new_pages[count:]

    def _take_pages(self, count: int, window: int | None = None) -> list[int]:
        pages = self.units_of(window).take(count)
        if pages:
            with self._undo(self.units_of(window), pages):
                index = torch.tensor(pages, device=self.device)
                for tensor in self.pages_of(window):
                    tensor.index_fill_(0, index, 0)
        return pages

    def needs_backup(self, sequence: Sequence, certain: int, uncertain: int) -> bool:
        if not uncertain:
            return False
        written = max(sequence.written, sequence.length + certain + uncertain)
        return self._oldest(written) > sequence.length + certain

    def _back_up(self, sequence: Sequence) -> None:
        (slot,) = self.ledger.slots.take(1)
        with self._undo(self.ledger.slots, [slot]):
            self._copy_slot(sequence.slot, slot)
        sequence.backup = Backup(slot, sequence.length, sequence.written)

    def _copy_slot(self, source: int, target: int) -> None:
        for layer in self._slots:
            for tensor in layer.values():
                tensor[target] = tensor[source]

    def commit(self, sequence: Sequence, num_tokens: int) -> None:
        self._check_valid(sequence)
        if not 0 <= num_tokens <= sequence.pending:
            raise HylaError(f"slot {sequence.slot}: cannot commit {num_tokens} tokens; {sequence.pending} are pending")
        length = sequence.length + num_tokens
        if sequence.backup is not None and length < self.oldest_length(sequence):
            self._copy_slot(sequence.backup.slot, sequence.slot)
            length, sequence.written = sequence.backup.length, sequence.backup.written
        self._move(sequence, length)
        self._drop_backup(sequence)

    def _drop_backup(self, sequence: Sequence) -> None:
        if sequence.backup is not None:
            self.ledger.slots.give_back([sequence.backup.slot])
            sequence.backup = None

    def _leave_window(self, sequence: Sequence) -> None:
        """Give back the pages that no later row can see."""
        for window in self.ledger.windows:
            table = sequence.tables[window]
            past = [n for n in range(first_window_page(sequence.length, window)) if table[n]]
            self.units_of(window).give_back([table[n] for n in past])
            for n in past:
                table[n] = 0

    def rollback(self, sequence: Sequence, length: int) -> None:
        self._check_valid(sequence)
        if not 0 <= length <= sequence.length:
            raise HylaError(f"slot {sequence.slot}: cannot roll back to {length}; its length is {sequence.length}")
        self._check_restorable(sequence, length)
        self._own_page(sequence, length)
        self._move(sequence, length)

    def _own_page(self, sequence: Sequence, length: int) -> None:
        """Before rows of a whole page are written again: a copy of it, since others may share it."""
        if length == sequence.length or length % CHUNK == 0:
            return
        place = length // CHUNK
        for window, table in sequence.tables.items():
            if place < len(table) and self.units_of(window).is_shared(table[place]):
                self._copy_page(table, place, window)

    def _copy_page(self, table: list[int], place: int, window: int | None) -> None:
        old = table[place]
        (new,) = self.units_of(window).take(1)
        with self._undo(self.units_of(window), [new]):
            for tensor in self.pages_of(window):
                tensor[new] = tensor[old]
        table[place] = new
        self.units_of(window).give_back([old])

    def _oldest(self, written: int) -> int:
        return max((limit(written) for limit in self._limits), default=0)

    def oldest_length(self, sequence: Sequence) -> int:
        self._check_valid(sequence)
        return self._oldest(sequence.written)

    def _check_restorable(self, sequence: Sequence, length: int) -> None:
        oldest = self.oldest_length(sequence)
        if length < oldest:
            raise HylaError(
                f"slot {sequence.slot}: length {length} cannot be restored after {sequence.written} tokens were "
                f"written; the oldest is {oldest}; resume from a checkpoint or compute the sequence again"
            )

    def _move(self, sequence: Sequence, length: int) -> None:
        """Set the cursor and free the pages past it."""
        self._check_restorable(sequence, length)
        sequence.length, sequence.pending = length, 0
        kept = num_pages_for(length)
        for window, table in sequence.tables.items():
            self.units_of(window).give_back([page for page in table[kept:] if page])
            del table[kept:]

    def fork(self, sequence: Sequence) -> Sequence:
        self._check_valid(sequence)
        self._check_restorable(sequence, sequence.length)
        is_partial = sequence.length % CHUNK > 0
        if is_partial and any(not self.units_of(window).free for window in sequence.tables):
            raise CapacityError("a fork needs a page of its own and none is free")
        (slot,) = self.ledger.slots.take(1)
        with self._undo(self.ledger.slots, [slot]):
            self._copy_slot(sequence.slot, slot)
        forked = Sequence(slot=slot, tables={}, length=sequence.length, written=sequence.written)
        with self._closed_on_failure(forked):
            for window, pages in sequence.tables.items():
                table = pages[: num_pages_for(sequence.length)]
                self.units_of(window).hold(page for page in table if page)
                forked.tables[window] = table
                if is_partial:
                    self._copy_page(table, len(table) - 1, window)
        return forked

    # What the prefix cache keeps

    def checkpoint(self, sequence: Sequence, unit: int | None) -> Checkpoint:
        """Keep the state after the last multiple of 64 committed tokens. unit: a snapshot that the caller took from the
        ledger; None exactly when `has_states` is False. Its window pages are kept on top (`drop_checkpoint`)."""
        self._check_valid(sequence)
        length = sequence.length // CHUNK * CHUNK
        if (unit is not None) != self.has_states or length == 0:
            raise HylaError(f"slot {sequence.slot}: no checkpoint with snapshot {unit} at length {length}")
        if unit is not None:
            self.snapshots.save(unit, self._slots, sequence.slot)
        window_pages = []
        for window, units in self.ledger.windows.items():
            first = first_window_page(length, window)
            table = [0] * first + sequence.tables[window][first : length // CHUNK]
            units.keep(page for page in table if page)
            window_pages.append((window, tuple(table)))
        return Checkpoint(length, unit, tuple(window_pages))

    def drop_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Let its window pages and its snapshot go."""
        for window, table in checkpoint.window_pages:
            self.units_of(window).drop(page for page in table if page)
        if checkpoint.unit is not None:
            self.ledger.snapshots.drop([checkpoint.unit])

    def resume(self, pages: List[int], checkpoint: Checkpoint | None) -> Sequence:
        """A new sequence after 64 tokens per page; it shares the pages. Raises CapacityError when no slot is free."""
        sequence = self.open()
        length = len(pages) * CHUNK
        with self._closed_on_failure(sequence):
            self.ledger.pages.hold(pages)
            sequence.tables[None] = list(pages)
            for window, table in checkpoint.window_pages if checkpoint is not None else ():
                self.units_of(window).hold(page for page in table if page)
                sequence.tables[window] = list(table)
            if checkpoint is not None and checkpoint.unit is not None:
                self.snapshots.load(checkpoint.unit, self._slots, sequence.slot, length)
        sequence.length = sequence.written = length
        return sequence

    @contextmanager
    def _closed_on_failure(self, sequence: Sequence) -> Iterator[None]:
        """Nobody else knows a sequence that cannot be finished."""
        try:
            yield
        except BaseException:
            self.close(sequence)
            raise

    def close(self, sequence: Sequence) -> None:
        self._check_valid(sequence)
        sequence.is_valid = False
        self._drop_backup(sequence)
        for window, table in sequence.tables.items():
            self.units_of(window).give_back([page for page in table if page])
        self.ledger.slots.give_back([sequence.slot])
        sequence.tables = {None: []}

    @staticmethod
    def _check_valid(sequence: Sequence) -> None:
        if not sequence.is_valid:
            raise HylaError(f"the sequence that had slot {sequence.slot} is closed; open or resume another one")
