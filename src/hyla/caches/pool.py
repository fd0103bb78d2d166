"""The cache pool: every mixer's pages and slots behind one set of verbs.

The verbs keep the books (`ledger`, `page_tables`) and plan what the tensors need (`commands`); the plan is carried out
together, before the tensors are read next (`tensors`).
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as List
from contextlib import contextmanager

import torch

from hyla.caches.commands import Command
from hyla.caches.ledger import Ledger, Units
from hyla.caches.page_tables import PageTables
from hyla.caches.plan import Plan
from hyla.caches.rollback import limits_of
from hyla.caches.sequence import Backup, Checkpoint, Sequence
from hyla.caches.storage import SnapshotDtype, SnapshotStore, snapshot_bytes, windows_of
from hyla.caches.tensors import PoolTensors
from hyla.errors import CapacityError, ConfigError, HylaError
from hyla.grid import CHUNK
from hyla.layers.protocol import CacheSpec, LayerCache
from hyla.ops import backends
from hyla.ops.batch import Batch
from hyla.ops.numerics import Numerics, chosen


class Cache:
    """Pages and slots of all mixers of a model, on one device.

    Between `batch` and `commit` the new rows are written but do not count.

    num_pages, num_slots, num_snapshots, num_window_pages (by window): how many can be handed out; one null unit (id 0)
    comes on top of each. Window pages default to as many as the others. Raises ConfigError for none.
    numerics: what everything in it is computed with (`ops.numerics`); a step with the other one is refused.
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
        device: torch.device | str = "cpu",
        numerics: Numerics = "exact",
    ):
        if num_pages < 1 or num_slots < 1:
            raise ConfigError(f"a cache needs at least one page and one slot; got {num_pages} and {num_slots}")
        self.specs = tuple(specs)
        self.device = torch.device(device)
        windows = {window: (num_window_pages or {}).get(window, num_pages) for window in windows_of(specs)}
        self.ledger = Ledger(num_pages, num_slots, num_snapshots, windows)
        self.snapshot_dtype: SnapshotDtype = snapshot_dtype
        self.numerics: Numerics = numerics
        self.tensors = PoolTensors(self.specs, self.ledger, snapshot_dtype, self.device)
        self._backend: str | None = None
        """What computed what is cached; None: nothing yet."""
        self.plan = Plan(self.tensors)
        self.tables = PageTables(self.ledger, self.plan.add)
        self._limits = limits_of(self.specs)
        self.has_states = bool(snapshot_bytes(specs))
        """Some layer keeps more than pages, so that a sequence can only be taken up where there is a snapshot."""

    def allocate(self) -> None:
        """Take the memory again, all zero, after `release`."""
        self._backend = None
        self.tensors.allocate()

    def release(self) -> None:
        """Free the tensors until `allocate`. Raises HylaError while anybody holds a page, a slot or a snapshot."""
        for units in self.ledger.units:
            if units.free < units.total:
                raise HylaError(f"{units.total - units.free} {units.name} are held; close their sequences first")
        self.plan.clear()
        self.tensors.release()

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors of the pool. Any thread may ask."""
        return self.tensors.nbytes

    # The tensors

    @property
    def layers(self) -> tuple[LayerCache, ...]:
        """What a forward call takes: per mixer a dict name -> tensor, [pages + 1, *shape] or [slots + 1, *shape], where
        row 0 is the null row. What was planned is carried out first."""
        self.apply()
        return self.tensors.layers

    @property
    def snapshots(self) -> SnapshotStore:
        """The kept states; what was planned is carried out first."""
        self.apply()
        return self.tensors.snapshots

    def apply(self) -> None:
        """Carry out what was planned. What fails concerns only who it was for: see `failure_of`."""
        self.plan.carry_out()

    def failure_of(self, sequence: Sequence) -> Exception | None:
        """Why the cache of a sequence is not what it should be, after `apply`."""
        return self.plan.failure_of(sequence)

    def units_of(self, window: int | None) -> Units:
        """The ledger's pages of a window."""
        return self.ledger.pages_of(window)

    # Steps

    def open(self) -> Sequence:
        """A new, empty sequence with a zeroed slot. Raises CapacityError when no slot is free."""
        (slot,) = self.ledger.slots.take(1)
        self.plan.add(Command("zero_slots", ((slot,),)))
        return Sequence(slot=slot, tables={None: [], **{window: [] for window in self.ledger.windows}})

    def batch(self, parts: List[tuple[Sequence, int]], certain: List[int] | None = None) -> Batch:
        """Reserve (and zero) pages for (sequence, new tokens) and describe the forward call that writes them.

        certain: of each part, how many rows will be committed for sure (all by default); where the others could not be
        undone, the slot is copied first, into a free one (`needs_backup` tells).
        Raises CapacityError, reserving nothing, when pages or slots are short, and what kept a sequence's place from
        being prepared.
        """
        self._check_arithmetic()
        sequences = [sequence for sequence, _ in parts]
        for sequence in sequences:
            self.tables.leave_window(sequence)
        if len(set(map(id, sequences))) < len(sequences):
            raise HylaError("a sequence may stand only once in a batch")
        for sequence, num_tokens in parts:
            self._check_valid(sequence)
            self._check_restorable(sequence, sequence.length)
            if num_tokens < 1:
                raise HylaError(f"slot {sequence.slot}: {num_tokens} new tokens; a batch needs at least one each")
        certain = certain or [count for _, count in parts]
        copied = [s for (s, count), sure in zip(parts, certain) if self.needs_backup(s, sure, count - sure)]
        if len(copied) > self.ledger.slots.free:
            raise CapacityError(f"{len(copied)} spare slots are needed and {self.ledger.slots.free} are free")
        self.tables.reserve(parts)
        for sequence in copied:
            self._back_up(sequence)
        self.apply()
        failure = next(filter(None, map(self.failure_of, sequences)), None)
        if failure is not None:
            raise failure
        for sequence, num_tokens in parts:
            sequence.pending = num_tokens
            sequence.written = max(sequence.written, sequence.length + num_tokens)
        return self.view(sequences, [sequence.length for sequence in sequences], [count for _, count in parts])

    def _check_arithmetic(self) -> None:
        """What was filled by one arithmetic is not continued by another: their states differ by rounding."""
        if chosen() != self.numerics:
            raise HylaError(
                f"the caches are for numerics {self.numerics!r} and now {chosen()!r} computes; make them with "
                f"numerics={chosen()!r}, or compute inside ops.numerics.use({self.numerics!r})"
            )
        backend = backends.on(self.device)
        if self._backend is None:
            self._backend = backend
        elif backend != self._backend:
            raise HylaError(
                f"the caches were filled by the {self._backend} backend and now {backend} computes; call backends.use "
                "before the first batch, or release and allocate the caches"
            )

    def view(self, sequences: List[Sequence], starts: List[int], lengths: List[int]) -> Batch:
        """A forward call over rows whose pages are reserved already, for layers beside the trunk's: no cursor moves."""
        self.apply()
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
            self.tables.leave_window(sequence)
        self.tables.reserve(parts)

    def num_missing_pages(self, sequence: Sequence, num_tokens: int, window: int | None = None) -> int:
        """Pages to be taken before `num_tokens` more rows can be written."""
        return self.tables.num_missing(sequence, num_tokens, window)

    def needs_backup(self, sequence: Sequence, certain: int, uncertain: int) -> bool:
        """Whether a batch of these rows would copy the slot."""
        if not uncertain:
            return False
        written = max(sequence.written, sequence.length + certain + uncertain)
        return self._oldest(written) > sequence.length + certain

    def _back_up(self, sequence: Sequence) -> None:
        self._drop_backup(sequence)  # of a batch that could not be prepared
        (slot,) = self.ledger.slots.take(1)
        self.plan.add(Command("copy_slots", ((sequence.slot, slot),)))
        sequence.backup = Backup(slot, sequence.length, sequence.written)

    def commit(self, sequence: Sequence, num_tokens: int) -> None:
        """The first num_tokens rows written by the last forward call count from now on; the rest is forgotten. When
        only a backup can forget it, the sequence is afterwards as long as before the call: its accepted tokens are to
        be computed again. Raises HylaError when that would need rows that are gone (see `rollback`)."""
        self._check_valid(sequence)
        if not 0 <= num_tokens <= sequence.pending:
            raise HylaError(f"slot {sequence.slot}: cannot commit {num_tokens} tokens; {sequence.pending} are pending")
        length = sequence.length + num_tokens
        if sequence.backup is not None and length < self.oldest_length(sequence):
            self.plan.add(Command("copy_slots", ((sequence.backup.slot, sequence.slot),)))
            length, sequence.written = sequence.backup.length, sequence.backup.written
        self._move(sequence, length)
        self._drop_backup(sequence)

    def _drop_backup(self, sequence: Sequence) -> None:
        if sequence.backup is not None:
            self.ledger.slots.give_back([sequence.backup.slot])
            sequence.backup = None

    def rollback(self, sequence: Sequence, length: int) -> None:
        """Move the cursor back. Raises HylaError below `oldest_length`, changing nothing."""
        self._check_valid(sequence)
        if not 0 <= length <= sequence.length:
            raise HylaError(f"slot {sequence.slot}: cannot roll back to {length}; its length is {sequence.length}")
        self._check_restorable(sequence, length)
        self.tables.unshare(sequence, length)
        self._move(sequence, length)

    def _oldest(self, written: int) -> int:
        return max((limit(written) for limit in self._limits), default=0)

    def oldest_length(self, sequence: Sequence) -> int:
        """The shortest length that `rollback` can restore now."""
        self._check_valid(sequence)
        return self._oldest(sequence.written)

    def _check_restorable(self, sequence: Sequence, length: int) -> None:
        self._check_valid(sequence)
        if length >= sequence.written:  # nothing is to be forgotten
            return
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
        self.tables.cut(sequence, length)

    def fork(self, sequence: Sequence) -> Sequence:
        """Another sequence with the same tokens, that shares the full pages. Raises CapacityError, taking nothing."""
        self._check_valid(sequence)
        self._check_restorable(sequence, sequence.length)
        if sequence.length % CHUNK and any(not self.units_of(window).free for window in sequence.tables):
            raise CapacityError("a fork needs a page of its own and none is free")
        (slot,) = self.ledger.slots.take(1)
        self.plan.add(Command("copy_slots", ((sequence.slot, slot),)))
        forked = Sequence(slot=slot, tables={}, length=sequence.length, written=sequence.written)
        with self._closed_on_failure(forked):
            self.tables.share(sequence, forked)
        return forked

    # What the prefix cache keeps

    def checkpoint(self, sequence: Sequence, unit: int | None) -> Checkpoint:
        """Keep the state after the last multiple of 64 committed tokens. unit: a snapshot that the caller took from the
        ledger; None exactly when `has_states` is False. Its window pages are kept on top (`drop_checkpoint`). Raises
        what kept the state from being saved: it is saved now, since nobody may find a state that is not there."""
        self._check_valid(sequence)
        length = sequence.length // CHUNK * CHUNK
        if (unit is not None) != self.has_states or length == 0:
            raise HylaError(f"slot {sequence.slot}: no checkpoint with snapshot {unit} at length {length}")
        if unit is not None:
            self.plan.add(Command("save", ((sequence.slot, unit),)))
            self.apply()
            failure = self.plan.failure_of_snapshot(unit)
            if failure is not None:
                raise failure
        return Checkpoint(length, unit, self.tables.keep_windows(sequence, length))

    def drop_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Let its window pages and its snapshot go."""
        self.tables.drop_windows(checkpoint.window_pages)
        if checkpoint.unit is not None:
            self.ledger.snapshots.drop([checkpoint.unit])

    def resume(self, pages: List[int], checkpoint: Checkpoint | None) -> Sequence:
        """A new sequence after 64 tokens per page, that shares the pages and goes on exactly as the one that was kept.
        Raises CapacityError, taking nothing, when no slot is free."""
        sequence = self.open()
        length = len(pages) * CHUNK
        with self._closed_on_failure(sequence):
            self.tables.hold(sequence, pages, checkpoint.window_pages if checkpoint is not None else ())
            if checkpoint is not None and checkpoint.unit is not None:
                self.plan.add(Command("load", ((checkpoint.unit, sequence.slot, length),)))
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
        """Give pages and slot back and make the sequence unusable."""
        self._check_valid(sequence)
        sequence.is_valid = False
        self._drop_backup(sequence)
        self.tables.cut(sequence, 0)
        self.ledger.slots.give_back([sequence.slot])
        sequence.tables = {None: []}

    @staticmethod
    def _check_valid(sequence: Sequence) -> None:
        if not sequence.is_valid:
            raise HylaError(f"the sequence that had slot {sequence.slot} is closed; open or resume another one")
