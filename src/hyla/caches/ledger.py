"""Who holds which page and slot: free + used + cached == total, always."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from hyla.errors import CapacityError, HylaError


@dataclass
class Units:
    """Numbered things of one kind, 1 to `total`; 0 is the null unit that is never handed out. Lowest free id first, so
    that the units of a sequence tend to stand next to each other."""

    name: str
    total: int
    used: int = 0
    cached: int = 0
    """Held by nobody who runs, kept for reuse (the prefix cache's share)."""
    _free: list[int] = field(default_factory=list)
    _is_used: set[int] = field(default_factory=set)

    def __post_init__(self):
        self._free = list(range(1, self.total + 1))

    @property
    def free(self) -> int:
        return len(self._free)

    def take(self, count: int) -> list[int]:
        """Hand out `count` units, ascending. Raises CapacityError, taking none, when fewer are free."""
        if count > self.free:
            raise CapacityError(
                f"{count} {self.name} are needed and {self.free} of {self.total} are free; close sequences or "
                f"give the cache more memory"
            )
        ids = [heapq.heappop(self._free) for _ in range(count)]
        self._is_used.update(ids)
        self.used += count
        return ids

    def give_back(self, ids: list[int]) -> None:
        """Return units. Raises HylaError for one that was not handed out."""
        for unit in ids:
            if unit not in self._is_used:
                raise HylaError(f"{self.name}: {unit} is given back but was not handed out")
            self._is_used.remove(unit)
            heapq.heappush(self._free, unit)
            self.used -= 1

    def check(self) -> None:
        """Raise HylaError unless the counts add up. (That no id is held twice is checked when it is given back.)"""
        if self.free + self.used + self.cached != self.total or self.used + self.cached != len(self._is_used):
            raise HylaError(
                f"{self.name} do not add up: free {self.free} + used {self.used} + cached {self.cached} != "
                f"total {self.total} ({len(self._is_used)} are held)"
            )


class Ledger:
    """Pages and slots of one cache pool."""

    def __init__(self, num_pages: int, num_slots: int):
        self.pages = Units("pages", num_pages)
        self.slots = Units("slots", num_slots)

    def check(self) -> None:
        """Raise HylaError unless free + used + cached == total for pages and slots."""
        self.pages.check()
        self.slots.check()

    def counts(self) -> dict[str, dict[str, int]]:
        """The numbers, as plain data."""
        return {
            units.name: {"free": units.free, "used": units.used, "cached": units.cached, "total": units.total}
            for units in (self.pages, self.slots)
        }
