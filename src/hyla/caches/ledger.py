"""Who holds which page, slot and snapshot: free + used + cached == total, always."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from hyla.errors import CapacityError, HylaError


class Units:
    """Numbered things of one kind, 1 to `total`; 0 is the null unit that is never handed out. Lowest free id first, so
    that the units of a sequence tend to stand next to each other.

    A unit is *used* while at least one running sequence holds it, *cached* while only the prefix cache keeps it, and
    free otherwise. Both kinds of holders are counted, since sequences and the prefix cache share pages.
    """

    def __init__(self, name: str, total: int):
        self.name, self.total = name, total
        self._free = list(range(1, total + 1))
        self._holders: Counter[int] = Counter()
        """By unit: sequences that hold it."""
        self._keepers: Counter[int] = Counter()
        """By unit: times that the prefix cache keeps it."""
        self.used = 0
        self.cached = 0

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
        self._holders.update(ids)
        self.used += count
        return ids

    @contextmanager
    def taking(self, count: int) -> Iterator[list[int]]:
        """`take` for what is done with the units; they come back when it fails."""
        taken = self.take(count)
        try:
            yield taken
        except BaseException:
            self.give_back(taken)
            raise

    def hold(self, ids: Iterable[int]) -> None:
        """One more sequence holds units that somebody has already."""
        for unit in ids:
            self._check_known(unit)
            if not self._holders[unit]:
                self.used, self.cached = self.used + 1, self.cached - 1
            self._holders[unit] += 1

    def give_back(self, ids: Iterable[int]) -> None:
        """A sequence lets units go. Raises HylaError for one that no sequence holds."""
        for unit in ids:
            if not self._holders[unit]:
                raise HylaError(f"{self.name}: {unit} is given back but was not handed out")
            self._holders[unit] -= 1
            if not self._holders[unit]:
                del self._holders[unit]
                self.used -= 1
                self.cached += 1
                self._free_if_idle(unit)

    def keep(self, ids: Iterable[int]) -> None:
        """The prefix cache keeps units that somebody has, once more."""
        for unit in ids:
            self._check_known(unit)
            self._keepers[unit] += 1

    def pass_on(self, ids: Iterable[int]) -> None:
        """What a sequence's owner took becomes the prefix cache's."""
        ids = list(ids)
        self.keep(ids)
        self.give_back(ids)

    def drop(self, ids: Iterable[int]) -> None:
        """The prefix cache lets units go. Raises HylaError for one that it does not keep."""
        for unit in ids:
            if not self._keepers[unit]:
                raise HylaError(f"{self.name}: {unit} is dropped but was not kept")
            self._keepers[unit] -= 1
            if not self._keepers[unit]:
                del self._keepers[unit]
                self._free_if_idle(unit)

    def is_held(self, unit: int) -> bool:
        """Whether a running sequence holds it."""
        return unit in self._holders

    def is_shared(self, unit: int) -> bool:
        """Whether anybody beside one sequence has it."""
        return self._holders[unit] + self._keepers[unit] > 1

    def _free_if_idle(self, unit: int) -> None:
        if unit not in self._holders and unit not in self._keepers:
            self.cached -= 1
            heapq.heappush(self._free, unit)

    def _check_known(self, unit: int) -> None:
        if unit not in self._holders and unit not in self._keepers:
            raise HylaError(f"{self.name}: {unit} is shared but nobody has it")

    def check(self) -> None:
        """Raise HylaError unless the counts add up, against the holders themselves."""
        held, kept = set(self._holders), set(self._keepers)
        agrees = self.used == len(held) and self.cached == len(kept - held) and not (held | kept) & set(self._free)
        if self.free + self.used + self.cached != self.total or not agrees:
            raise HylaError(
                f"{self.name} do not add up: free {self.free} + used {self.used} + cached {self.cached} != "
                f"total {self.total} ({len(held)} are held, {len(kept - held)} only kept)"
            )


class Ledger:
    """Every kind of unit of one cache pool.

    windows: number of pages by window length, for layers that see no further back.
    """

    def __init__(self, num_pages: int, num_slots: int, num_snapshots: int = 0, windows: dict[int, int] | None = None):
        self.pages = Units("pages", num_pages)
        self.slots = Units("slots", num_slots)
        self.snapshots = Units("snapshots", num_snapshots)
        self.windows = {window: Units(f"window_{window}_pages", count) for window, count in (windows or {}).items()}

    def pages_of(self, window: int | None) -> Units:
        """The pages of a window; None: of the layers that see everything."""
        return self.pages if window is None else self.windows[window]

    @property
    def units(self) -> tuple[Units, ...]:
        return (self.pages, self.slots, self.snapshots, *self.windows.values())

    def check(self) -> None:
        """Raise HylaError unless free + used + cached == total for every kind."""
        for units in self.units:
            units.check()

    def counts(self) -> dict[str, dict[str, int]]:
        """The numbers, as plain data."""
        return {
            units.name: {"free": units.free, "used": units.used, "cached": units.cached, "total": units.total}
            for units in self.units
        }
