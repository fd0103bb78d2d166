"""From one byte budget to pages and slots; a setting that does not fit is lowered, and said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from hyla.caches.storage import SnapshotDtype, page_bytes, slot_bytes, snapshot_bytes, windows_of
from hyla.errors import CapacityError
from hyla.grid import CHUNK, num_pages_for
from hyla.layers.protocol import CacheSpec
from hyla.ops.attention.cost import LOOK_BACK, num_window_pages

DEFAULT_SHARE, DEFAULT_MOST_BYTES = 4, 4 << 30
"""By default an engine takes at most one part in DEFAULT_SHARE of the free memory."""

SNAPSHOTS_PER_SLOT = 32
"""More kept states than this for each sequence that can run are of little use."""


@dataclass(frozen=True)
class MemoryPlan:
    """What the budget buys."""

    num_pages: int
    num_slots: int
    num_snapshots: int
    """States that the prefix cache can keep."""
    num_window_pages: dict[int, int]
    """Pages of the layers that see no further back, by window."""
    notes: tuple[str, ...]
    """What was lowered, and why."""

    @property
    def num_tokens(self) -> int:
        """Tokens that the pages hold, over all sequences."""
        return self.num_pages * CHUNK


def available_bytes(device: torch.device) -> int:
    """Memory that is free on the device now; on the CPU also within the control group's limit."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    lines = Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else []
    fields = dict(line.split(":", 1) for line in lines)
    free = int(fields.get("MemAvailable", "2097152 kB").split()[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and limit.read_text().strip() != "max":
        free = min(free, max(int(limit.read_text()) - int(used.read_text()), 0))
    return free


@dataclass(frozen=True)
class Demand:
    """What an engine would like to have room for."""

    max_num_sequences: int
    context_len: int
    prefill_chunk: int = 512
    """Rows of one sequence in one step."""
    keeps_prefixes: bool = False
    snapshot_dtype: SnapshotDtype = "float32"
    num_spare_slots: int = 0
    """Slots for copies of others while drafts are verified."""


def plan_memory(specs: Sequence[CacheSpec], demand: Demand, *, memory: int | None, available: int) -> MemoryPlan:
    """Slots with their window pages first (at most half of the budget), then up to a quarter of what is left for
    snapshots, then pages with the rest; of nothing more than can be used.

    Raises CapacityError when not even one sequence of one page fits.
    """
    budget = memory if memory is not None else min(available // DEFAULT_SHARE, DEFAULT_MOST_BYTES)
    slot, page = slot_bytes(specs), page_bytes(specs)
    window_pages = {window: num_window_pages(window, demand.prefill_chunk) for window in windows_of(specs)}
    sequence = slot + sum(count * page_bytes(specs, window) for window, count in window_pages.items())
    null = slot + page + sum(page_bytes(specs, window) for window in window_pages)
    left = budget - null - sequence - page
    if left < 0:
        raise CapacityError(
            f"the caches need at least {budget - left:,} bytes (one sequence of {CHUNK} tokens and a spare) and "
            f"the budget is {budget:,}; give the engine more with memory="
        )
    wanted_slots = demand.max_num_sequences + demand.num_spare_slots
    num_slots = min(wanted_slots, 1 + (left // 2 // sequence if sequence else wanted_slots))
    left -= (num_slots - 1) * sequence
    num_snapshots, snapshot_windows = _plan_snapshots(specs, demand, num_slots, left // 4)
    left -= (num_snapshots + (num_snapshots > 0)) * snapshot_bytes(specs, demand.snapshot_dtype)
    left -= sum(count * page_bytes(specs, window) for window, count in snapshot_windows.items())
    wanted_pages = num_slots * num_pages_for(demand.context_len) * (2 if demand.keeps_prefixes else 1)
    num_pages = min(wanted_pages, 1 + left // page) if page else wanted_pages
    notes = []
    if num_slots < demand.max_num_sequences:
        notes.append(
            f"max_num_sequences lowered from {demand.max_num_sequences} to {num_slots}: a sequence keeps {sequence:,} "
            f"bytes and the cache budget is {budget:,}"
        )
    if num_pages * CHUNK < demand.context_len:
        notes.append(
            f"one request may have {num_pages * CHUNK} tokens, not the context's {demand.context_len}: the cache "
            f"budget is {budget:,} bytes"
        )
    return MemoryPlan(
        num_pages=num_pages,
        num_slots=num_slots,
        num_snapshots=num_snapshots,
        num_window_pages={w: num_slots * count + snapshot_windows.get(w, 0) for w, count in window_pages.items()},
        notes=tuple(notes),
    )


def _plan_snapshots(
    specs: Sequence[CacheSpec], demand: Demand, num_slots: int, budget: int
) -> tuple[int, dict[int, int]]:
    """(snapshots, window pages kept by them) that a budget buys; at most SNAPSHOTS_PER_SLOT for each sequence."""
    windows = {window: num_pages_for(window - 1 + LOOK_BACK) + 1 for window in windows_of(specs)}
    state = snapshot_bytes(specs, demand.snapshot_dtype)
    each = state + sum(count * page_bytes(specs, window) for window, count in windows.items())
    if not demand.keeps_prefixes or not each:
        return 0, {}
    count = max(min((budget - state) // each, SNAPSHOTS_PER_SLOT * num_slots), 0)  # one null snapshot comes on top
    return (count if state else 0), {window: count * pages for window, pages in windows.items()}
