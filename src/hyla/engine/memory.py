"""From one byte budget to pages and slots; a setting that does not fit is lowered, and said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from hyla.caches.pool import num_pages_for, page_bytes, slot_bytes
from hyla.errors import CapacityError
from hyla.layers.protocol import CacheSpec
from hyla.ops.batch import CHUNK

DEFAULT_SHARE, DEFAULT_MOST_BYTES = 4, 4 << 30
"""By default an engine takes at most one part in DEFAULT_SHARE of the free memory."""


@dataclass(frozen=True)
class MemoryPlan:
    """What the budget buys."""

    num_pages: int
    num_slots: int
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


def plan_memory(
    specs: Sequence[CacheSpec], *, memory: int | None, max_num_sequences: int, context_len: int, available: int
) -> MemoryPlan:
    """Slots first (at most half of the budget), pages with the rest, neither more than can be used.

    Raises CapacityError when not even one sequence of one page fits.
    """
    budget = memory if memory is not None else min(available // DEFAULT_SHARE, DEFAULT_MOST_BYTES)
    slot, page = slot_bytes(specs), page_bytes(specs)
    left = budget - 2 * (slot + page)
    if left < 0:
        raise CapacityError(
            f"the caches need at least {2 * (slot + page):,} bytes (one sequence of {CHUNK} tokens and a spare) and "
            f"the budget is {budget:,}; give the engine more with memory="
        )
    most_slots = 1 + (left // 2 // slot if slot else max_num_sequences)
    num_slots = min(max_num_sequences, most_slots)
    left -= (num_slots - 1) * slot
    wanted_pages = num_slots * num_pages_for(context_len)
    num_pages = min(wanted_pages, 1 + left // page) if page else wanted_pages
    notes = []
    if num_slots < max_num_sequences:
        notes.append(
            f"max_num_sequences lowered from {max_num_sequences} to {num_slots}: a sequence keeps {slot:,} bytes and "
            f"the cache budget is {budget:,}"
        )
    if num_pages * CHUNK < context_len:
        notes.append(
            f"one request may have {num_pages * CHUNK} tokens, not the context's {context_len}: the cache budget is "
            f"{budget:,} bytes"
        )
    return MemoryPlan(num_pages=num_pages, num_slots=num_slots, notes=tuple(notes))
