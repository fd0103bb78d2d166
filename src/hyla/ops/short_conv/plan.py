"""Which rows of a packed batch need inputs from before it, where those are kept, and which inputs to keep."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hyla.errors import ConfigError
from hyla.grid import CHUNK
from hyla.ops.batch import Batch
from hyla.ops.short_conv.cost import RING


@dataclass(frozen=True)
class ConvPlan:
    """Made once per batch and number of taps. N sequences; M = `num_heads` rows at most of each are *head rows*: their
    window reaches back before the sequence's first new row."""

    taps: int
    spans_4N: torch.Tensor
    """The batch's spans, for the native kernel."""
    offsets: tuple[int, ...]
    """Flat row of each sequence's first new row."""
    num_heads: int
    """M = min(L - 1, longest length), at least 1."""
    is_decode: bool
    """Every sequence has exactly one new row: row n is sequence n."""
    has_body: bool
    """Some row is not a head row."""
    head_source_NM: torch.Tensor
    """int64: flat row of each sequence's i-th new row, clamped to the batch."""
    head_rows_R: torch.Tensor
    """int64: flat rows that are head rows."""
    head_places_R: torch.Tensor
    """int64: their places in the flattened [N * M]."""
    history_NJ: torch.Tensor
    """int64: ring row of each of the L - 1 inputs before the sequence's first new row."""
    has_history_NJ1: torch.Tensor | None
    """bool: whether that input exists (position >= 0); None when all do."""
    slots_N1: torch.Tensor | None
    kept_slots_W: torch.Tensor | None
    kept_ring_W: torch.Tensor | None
    """int64: where the inputs to be kept go."""
    kept_rows_W: torch.Tensor | None
    """int64: flat rows of the inputs to be kept; None: all rows in order."""
    tail_from_ring: tuple[torch.Tensor, ...] | None
    """int64 (slots, ring rows, tail rows) of the inputs before a passed multiple of 64 that older calls brought."""
    tail_from_rows: tuple[torch.Tensor, ...] | None
    """int64 (slots, flat rows, tail rows) of those that this call brings. None where there are none."""

    def crossing_rows(self, first: int, last: int, shift: int) -> list[int]:
        """Rows in [first, last) whose input `shift` rows earlier belongs to another sequence, relative to first."""
        return [offset + i - first for offset in self.offsets for i in range(shift) if first <= offset + i < last]


def check_taps(taps: int) -> None:
    """Raise ConfigError for more taps than a ring has inputs."""
    if not 1 <= taps <= RING:
        raise ConfigError(f"short_conv: {taps} taps; the ring of {RING} inputs allows 1 to {RING}")


def conv_plan(batch: Batch, taps: int) -> ConvPlan:
    """The batch's plan for this many taps; kept on the batch."""
    return batch.memo(("conv plan", taps), lambda: _make_plan(batch, taps))


def _make_plan(batch: Batch, taps: int) -> ConvPlan:
    num_heads = max(1, min(taps - 1, max(batch.lengths)))
    spans = list(zip(batch.offsets, batch.lengths))
    heads = [(o + i, n * num_heads + i) for n, (o, length) in enumerate(spans) for i in range(min(num_heads, length))]
    source = [[min(o + i, batch.num_tokens - 1) for i in range(num_heads)] for o in batch.offsets]
    before = [[start - (taps - 1) + j for j in range(taps - 1)] for start in batch.starts]
    exists = [[position >= 0 for position in positions] for positions in before]
    is_decode = max(batch.lengths) == 1
    plan = dict.fromkeys(("slots_N1", "kept_slots_W", "kept_ring_W", "kept_rows_W"))
    plan |= {"tail_from_ring": None, "tail_from_rows": None}
    if batch.slots is not None:
        kept = [
            (slot, (start + i) % RING, offset + i)
            for slot, start, (offset, length) in zip(batch.slots, batch.starts, spans)
            for i in range(max(0, length - RING), length)
        ]
        plan["slots_N1"] = batch.index(batch.slots)[:, None]
        plan["kept_slots_W"], plan["kept_ring_W"], kept_rows = (batch.index(column) for column in zip(*kept))
        plan["kept_rows_W"] = None if len(kept) == batch.num_tokens else kept_rows
        plan["tail_from_ring"], plan["tail_from_rows"] = _tail_sources(batch, taps)
    return ConvPlan(
        taps=taps,
        spans_4N=batch.spans_4N,
        offsets=batch.offsets,
        num_heads=num_heads,
        is_decode=is_decode,
        has_body=len(heads) < batch.num_tokens,
        head_source_NM=batch.index(source),
        head_rows_R=batch.index([row for row, _ in heads]),
        head_places_R=batch.index([place for _, place in heads]),
        history_NJ=batch.index([[position % RING for position in positions] for positions in before]),
        has_history_NJ1=None
        if all(all(row) for row in exists)
        else torch.tensor(exists, dtype=torch.bool, device=batch.device)[..., None],
        **plan,
    )


def _tail_sources(batch: Batch, taps: int) -> tuple[tuple[torch.Tensor, ...] | None, ...]:
    """Where the L - 1 inputs before each sequence's newest multiple of 64 stand, for sequences that pass one now."""
    from_ring, from_rows = [], []
    for slot, start, end, offset in zip(batch.cached_slots, batch.starts, batch.ends, batch.offsets):
        boundary = end // CHUNK * CHUNK
        for j in range(taps - 1) if boundary > start else ():
            position = boundary - (taps - 1) + j
            if position < start:
                from_ring.append((slot, position % RING, j))
            else:
                from_rows.append((slot, offset + position - start, j))
    return tuple(tuple(batch.index(column) for column in zip(*found)) or None for found in (from_ring, from_rows))
