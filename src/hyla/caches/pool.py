"""The cache pool: every mixer's page and slot tensors, allocated once from their `CacheSpec`s."""

from __future__ import annotations

from collections.abc import Sequence as List

import torch

from hyla.caches.ledger import Ledger
from hyla.caches.protocol import Sequence, Snapshot
from hyla.errors import CapacityError, ConfigError, HylaError
from hyla.layers.protocol import CacheSpec, LayerCache, TensorSpec
from hyla.ops.batch import BLOCK, CHUNK, Batch
from hyla.ops.short_conv import RING

LONGEST_CONV = 8
"""Taps of the longest short convolution that a config may ask for."""

ROLLBACK_BY_ROLE = {
    "anchor": lambda written: written // CHUNK * CHUNK,
    "open": lambda written: max(written - 1, 0) // BLOCK * BLOCK,
    "conv": lambda written: max(written - RING + LONGEST_CONV - 1, 0),
}
"""Oldest length that each kind of cached tensor can go back to once `written` tokens were written: a closed chunk is
folded into its anchor, the solve keeps one block of 16 rows, and the convolution's ring overwrites its oldest input.
KV pages can go back to any length."""


def page_bytes(specs: List[CacheSpec]) -> int:
    """Bytes of one page of 64 tokens over all layers."""
    return sum(tensor.nbytes for spec in specs for tensor in spec.page_tensors)


def slot_bytes(specs: List[CacheSpec]) -> int:
    """Bytes of one sequence's slot over all layers."""
    return sum(tensor.nbytes for spec in specs for tensor in spec.slot_tensors)


def num_pages_for(num_tokens: int) -> int:
    """Pages that hold this many tokens.

    >>> num_pages_for(0), num_pages_for(64), num_pages_for(65)
    (0, 1, 2)
    """
    return -(-num_tokens // CHUNK)


class Cache:
    """A `CachePool` whose tensors live on one device.

    num_pages, num_slots: how many can be handed out; one null page and one null slot (id 0) come on top.
    """

    def __init__(self, specs: List[CacheSpec], *, num_pages: int, num_slots: int, device="cpu"):
        if num_pages < 1 or num_slots < 1:
            raise ConfigError(f"a cache needs at least one page and one slot; got {num_pages} and {num_slots}")
        self.specs = tuple(specs)
        self.device = torch.device(device)
        self.ledger = Ledger(num_pages, num_slots)
        self.allocate()
        roles = {tensor.role for spec in specs for tensor in spec.slot_tensors}
        self._limits = tuple(limit for role, limit in ROLLBACK_BY_ROLE.items() if role in roles)

    def allocate(self) -> None:
        """Make the tensors, all zero: at the start, and again after `release`."""
        self._pages = tuple(self._zeros(spec.page_tensors, self.ledger.pages.total) for spec in self.specs)
        self._slots = tuple(self._zeros(spec.slot_tensors, self.ledger.slots.total) for spec in self.specs)
        self.layers: tuple[LayerCache, ...] = tuple({**p, **s} for p, s in zip(self._pages, self._slots))

    def release(self) -> None:
        """Free the tensors until `allocate`. Raises HylaError while anybody holds a page or a slot."""
        for units in (self.ledger.pages, self.ledger.slots):
            if units.free < units.total:
                raise HylaError(f"{units.total - units.free} {units.name} are held; close their sequences first")
        self._pages = self._slots = self.layers = ()

    def _zeros(self, tensors: List[TensorSpec], count: int) -> dict[str, torch.Tensor]:
        return {
            spec.name: torch.zeros(count + 1, *spec.shape, dtype=spec.dtype, device=self.device) for spec in tensors
        }

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for layer in self.layers for tensor in layer.values())

    def open(self) -> Sequence:
        (slot,) = self.ledger.slots.take(1)
        for layer in self._slots:
            for tensor in layer.values():
                tensor[slot].zero_()
        return Sequence(slot=slot)

    def batch(self, parts: List[tuple[Sequence, int]]) -> Batch:
        sequences = [sequence for sequence, _ in parts]
        if len(set(map(id, sequences))) < len(sequences):
            raise HylaError("a sequence may stand only once in a batch")
        for sequence, num_tokens in parts:
            self._check_valid(sequence)
            self._check_restorable(sequence, sequence.length)
            if num_tokens < 1:
                raise HylaError(f"slot {sequence.slot}: {num_tokens} new tokens; a batch needs at least one each")
        needed = [max(num_pages_for(seq.length + count) - len(seq.pages), 0) for seq, count in parts]
        new_pages = self._take_pages(sum(needed))
        for (sequence, num_tokens), count in zip(parts, needed):
            sequence.pages += new_pages[:count]
            new_pages = new_pages[count:]
            sequence.pending = num_tokens
            sequence.written = max(sequence.written, sequence.length + num_tokens)
        return Batch(
            lengths=tuple(count for _, count in parts),
            starts=tuple(sequence.length for sequence in sequences),
            slots=tuple(sequence.slot for sequence in sequences),
            pages=tuple(tuple(sequence.pages) for sequence in sequences),
            device=self.device,
        )

    def _take_pages(self, count: int) -> list[int]:
        pages = self.ledger.pages.take(count)
        if pages:
            index = torch.tensor(pages, device=self.device)
            for layer in self._pages:
                for tensor in layer.values():
                    tensor.index_fill_(0, index, 0)
        return pages

    def commit(self, sequence: Sequence, num_tokens: int) -> None:
        self._check_valid(sequence)
        if not 0 <= num_tokens <= sequence.pending:
            raise HylaError(f"slot {sequence.slot}: cannot commit {num_tokens} tokens; {sequence.pending} are pending")
        self._move(sequence, sequence.length + num_tokens)

    def rollback(self, sequence: Sequence, length: int) -> None:
        self._check_valid(sequence)
        if not 0 <= length <= sequence.length:
            raise HylaError(f"slot {sequence.slot}: cannot roll back to {length}; its length is {sequence.length}")
        self._move(sequence, length)

    def oldest_length(self, sequence: Sequence) -> int:
        self._check_valid(sequence)
        return max((limit(sequence.written) for limit in self._limits), default=0)

    def _check_restorable(self, sequence: Sequence, length: int) -> None:
        oldest = self.oldest_length(sequence)
        if length < oldest:
            raise HylaError(
                f"slot {sequence.slot}: length {length} cannot be restored after {sequence.written} tokens were "
                f"written; the oldest is {oldest}; restore a snapshot or compute the sequence again"
            )

    def _move(self, sequence: Sequence, length: int) -> None:
        """Set the cursor and free the pages past it."""
        self._check_restorable(sequence, length)
        sequence.length, sequence.pending = length, 0
        kept = num_pages_for(length)
        self.ledger.pages.give_back(sequence.pages[kept:])
        del sequence.pages[kept:]

    def snapshot(self, sequence: Sequence) -> Snapshot:
        self._check_valid(sequence)
        self._check_restorable(sequence, sequence.length)
        pages = torch.tensor(sequence.pages[: num_pages_for(sequence.length)], dtype=torch.int64, device=self.device)
        return Snapshot(
            length=sequence.length,
            written=sequence.written,
            slot_tensors=tuple({name: t[sequence.slot].clone() for name, t in layer.items()} for layer in self._slots),
            page_tensors=tuple({name: t[pages] for name, t in layer.items()} for layer in self._pages),
        )

    def restore(self, snapshot: Snapshot) -> Sequence:
        count = num_pages_for(snapshot.length)
        if count > self.ledger.pages.free:
            raise CapacityError(f"a snapshot needs {count} pages and {self.ledger.pages.free} are free")
        sequence = self.open()
        sequence.pages = self._take_pages(count)
        sequence.length, sequence.written = snapshot.length, snapshot.written
        pages = torch.tensor(sequence.pages, dtype=torch.int64, device=self.device)
        for layer, kept in zip(self._slots, snapshot.slot_tensors):
            for name, tensor in layer.items():
                tensor[sequence.slot] = kept[name]
        for layer, kept in zip(self._pages, snapshot.page_tensors):
            for name, tensor in layer.items():
                tensor[pages] = kept[name]
        return sequence

    def close(self, sequence: Sequence) -> None:
        self._check_valid(sequence)
        sequence.is_valid = False
        self.ledger.pages.give_back(sequence.pages)
        self.ledger.slots.give_back([sequence.slot])
        sequence.pages = []

    @staticmethod
    def _check_valid(sequence: Sequence) -> None:
        if not sequence.is_valid:
            raise HylaError(f"the sequence that had slot {sequence.slot} is closed; open or restore another one")
