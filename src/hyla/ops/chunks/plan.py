"""How a packed batch falls onto the 64-token grid: which rows make which chunk, and in which order chunks follow.

An *item* is one chunk of one sequence that this call touches. Items are ordered by step: step 0 holds the first chunk
of every sequence, step 1 the second, and so on, sequences with more chunks first; so the items of a step, and the
sequences that are active in it, are contiguous ranges. Everything here is made from host integers, once per batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from hyla.grid import BLOCK, CHUNK
from hyla.ops.batch import Batch


@dataclass(frozen=True)
class ChunkPlan:
    """The chunks of the sequences that take the chunk path. R sequences ("ranks", most chunks first), I items."""

    sequences: tuple[int, ...]
    """Sequence of each rank."""
    step_sizes: tuple[int, ...]
    """Items of each step; ranks 0 .. size - 1 are active in it."""
    rows_IC: torch.Tensor
    """int64 [I, 64]: flat row that stands at each place of the chunk; num_tokens (a null row) where there is none."""
    places_T: torch.Tensor
    """int64: for each flat row of these sequences (in `flat_rows_T` order), its place in the flattened [I * 64]."""
    flat_rows_T: torch.Tensor
    """int64: the flat rows of these sequences."""
    open_ranks: tuple[int, ...]
    """Ranks whose first item continues an open chunk."""
    is_old_OC: torch.Tensor
    """bool [len(open_ranks), 64]: places whose rows are already in the cache."""
    tail_ranks: tuple[int, ...]
    """Ranks whose last item stays open; their rows go to the cache."""
    closed_ranks: tuple[int, ...]
    """Ranks whose last item closes; a new anchor goes to the cache."""
    last_items: tuple[int, ...]
    """Item of each rank's last chunk."""
    count_I: torch.Tensor
    """int64: rows of each item that exist after this call."""
    covers_batch: bool
    """These sequences are the whole batch, in order."""

    @cached_property
    def item_lists(self) -> tuple[torch.Tensor, torch.Tensor]:
        """int64 [N] and int64: for each sequence the first place, in the second, of its chunks' items in order."""
        starts = self.step_starts()
        counts = [sum(rank < size for size in self.step_sizes) for rank in range(len(self.sequences))]
        first, items = [0] * len(self.sequences), []
        for rank, n in enumerate(self.sequences):
            first[n] = len(items)
            items += [starts[step] + rank for step in range(counts[rank])]
        return torch.tensor(first), torch.tensor(items)

    def step_starts(self) -> list[int]:
        """First item of each step."""
        starts = [0]
        for size in self.step_sizes:
            starts.append(starts[-1] + size)
        return starts[:-1]


def chunk_plan(batch: Batch) -> ChunkPlan:
    """The plan of the batch's prefill sequences (all sequences when nothing is cached); kept on the batch."""
    return batch.memo("chunk plan", lambda: _make_chunk_plan(batch))


def _make_chunk_plan(batch: Batch) -> ChunkPlan:
    chunks = {n: range(batch.starts[n] // CHUNK, (batch.ends[n] - 1) // CHUNK + 1) for n in batch.prefill_sequences}
    # Most chunks first: the sequences that are active in a step are then a range, and states are sliced, not gathered.
    ranks = sorted(chunks, key=lambda n: -len(chunks[n]))
    step_sizes = []
    rows, counts, places = [], [], {}
    last_items = [0] * len(ranks)
    for step in range(len(chunks[ranks[0]]) if ranks else 0):
        active = [rank for rank, n in enumerate(ranks) if len(chunks[n]) > step]
        step_sizes.append(len(active))
        for rank in active:
            n = ranks[rank]
            chunk_start = chunks[n][step] * CHUNK
            # The first chunk may be open already, and the last one may stay open: rows stand at their absolute places.
            first = max(batch.starts[n], chunk_start)
            last = min(batch.ends[n], chunk_start + CHUNK)
            flat = batch.offsets[n] + first - batch.starts[n]
            places[(n, first)] = (flat, len(rows) * CHUNK + first - chunk_start, last - first)
            last_items[rank] = len(rows)
            row = torch.full((CHUNK,), batch.num_tokens, dtype=torch.int64)
            row[first - chunk_start : last - chunk_start] = torch.arange(flat, flat + last - first)
            rows.append(row)
            counts.append(last - chunk_start)
    # Flat order, so that outputs go back to the batch by one index.
    spans = sorted(places.values())
    flat_rows = [torch.arange(flat, flat + count) for flat, _, count in spans]
    row_places = [torch.arange(place, place + count) for _, place, count in spans]
    open_ranks = [rank for rank, n in enumerate(ranks) if batch.starts[n] % CHUNK]
    old = torch.tensor([batch.starts[ranks[rank]] % CHUNK for rank in open_ranks], dtype=torch.int64)
    device = batch.device
    return ChunkPlan(
        sequences=tuple(ranks),
        step_sizes=tuple(step_sizes),
        rows_IC=torch.stack(rows).to(device) if rows else torch.zeros(0, CHUNK, dtype=torch.int64, device=device),
        places_T=torch.cat(row_places).to(device) if row_places else torch.zeros(0, dtype=torch.int64, device=device),
        flat_rows_T=torch.cat(flat_rows).to(device) if flat_rows else torch.zeros(0, dtype=torch.int64, device=device),
        open_ranks=tuple(open_ranks),
        is_old_OC=(torch.arange(CHUNK)[None] < old[:, None]).to(device),
        tail_ranks=tuple(rank for rank, n in enumerate(ranks) if batch.ends[n] % CHUNK),
        closed_ranks=tuple(rank for rank, n in enumerate(ranks) if batch.ends[n] % CHUNK == 0),
        last_items=tuple(last_items),
        count_I=batch.index(counts),
        covers_batch=len(ranks) == batch.num_sequences,
    )


@dataclass(frozen=True)
class RowPlan:
    """The sequences with one new row and a cache: where their rows stand. N sequences."""

    flat_rows_N: torch.Tensor
    """int64 [N]: row of each sequence in the packed batch."""
    slots: torch.Tensor | slice
    """Slots, as a slice when they are consecutive (so that state is read in place, not copied)."""
    slots_N: torch.Tensor
    row_N: torch.Tensor
    """int64 [N]: place of the new row in its chunk, 0 .. 63."""
    closing: torch.Tensor
    """int64: the sequences (indices into N) whose chunk this row closes."""
    has_block_end: bool
    """Some row is the last of its block of 16."""
    covers_batch: bool
    block: int | None
    """Block of 16 that every row is in, when it is the same for all."""


def row_plan(batch: Batch) -> RowPlan:
    """The plan of the batch's decode sequences; kept on the batch."""
    return batch.memo("row plan", lambda: _make_row_plan(batch))


def _make_row_plan(batch: Batch) -> RowPlan:
    sequences = batch.decode_sequences
    held = batch.slots or ()  # without a cache there are no such sequences
    slots = [held[n] for n in sequences]
    rows = [batch.starts[n] % CHUNK for n in sequences]
    # A slice makes a view of the states: a decoded token then reads them where they lie.
    consecutive = bool(slots) and slots == list(range(slots[0], slots[0] + len(slots)))
    slots_N = batch.index(slots)
    return RowPlan(
        flat_rows_N=batch.index([batch.offsets[n] for n in sequences]),
        slots=slice(slots[0], slots[0] + len(slots)) if consecutive else slots_N,
        slots_N=slots_N,
        row_N=batch.index(rows),
        closing=batch.index([i for i, row in enumerate(rows) if row == CHUNK - 1]),
        block=rows[0] // BLOCK if len({row // BLOCK for row in rows}) == 1 else None,
        has_block_end=any(row % BLOCK == BLOCK - 1 for row in rows),
        covers_batch=len(sequences) == batch.num_sequences,
    )
