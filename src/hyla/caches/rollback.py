"""How far back a sequence can go: what later writes have replaced cannot be undone."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as List

from hyla.caches.storage import windows_of
from hyla.grid import BLOCK, CHUNK
from hyla.layers.protocol import CacheSpec
from hyla.ops.short_conv import RING

LONGEST_CONV = 8
"""Taps of the longest short convolution that a config may ask for."""

Limit = Callable[[int], int]
"""From the tokens that were written to the oldest length that can be restored."""

LIMIT_BY_ROLE: dict[str, Limit] = {
    "anchor": lambda written: written // CHUNK * CHUNK,
    "open": lambda written: max(written - 1, 0) // BLOCK * BLOCK,
    "conv": lambda written: max(written - RING + LONGEST_CONV - 1, 0),
    "window": lambda written: written // CHUNK * CHUNK,
}
"""By kind of cached tensor: a closed chunk is folded into its anchor, the solve keeps one block of 16 rows, the
convolution's ring overwrites its oldest input, and pages behind a window are given back. Other KV pages can go back to
any length."""


def limits_of(specs: List[CacheSpec]) -> tuple[Limit, ...]:
    """The limits of all that some layers keep."""
    roles = {tensor.role for spec in specs for tensor in spec.slot_tensors} | (
        {"window"} if windows_of(specs) else set()
    )
    return tuple(limit for role, limit in LIMIT_BY_ROLE.items() if role in roles)
