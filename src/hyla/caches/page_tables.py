"""Pages of 64 tokens: the tables that say which of them a sequence has. Numbers only; tensors follow by commands."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as List

from hyla.caches.commands import Command
from hyla.caches.ledger import Ledger
from hyla.caches.sequence import Sequence
from hyla.grid import CHUNK, num_pages_for
from hyla.ops.attention.cost import LOOK_BACK

WindowPages = tuple[tuple[int, tuple[int, ...]], ...]
"""(window, a table of pages, 0 for those behind it)."""


def first_window_page(length: int, window: int) -> int:
    """Index of the first page that a row from position floor(length / 64) * 64 - LOOK_BACK on can see."""
    return max(length // CHUNK * CHUNK - window + 1 - LOOK_BACK, 0) // CHUNK


class PageTables:
    """The pages of all layers. Layers with the same window (None: those that see everything) share a table.

    plan: takes what is to be done to the tensors.
    """

    def __init__(self, ledger: Ledger, plan: Callable[[Command], None]):
        self._ledger, self._plan = ledger, plan

    # Taking

    def num_missing(self, sequence: Sequence, num_tokens: int, window: int | None) -> int:
        """Pages to be taken before `num_tokens` more rows can be written."""
        return max(num_pages_for(sequence.length + num_tokens) - len(sequence.tables[window]), 0)

    def reserve(self, parts: List[tuple[Sequence, int]]) -> None:
        """Take (and plan to zero) the pages of all (sequence, new tokens). Raises CapacityError, taking nothing."""
        needed = {
            window: [self.num_missing(sequence, count, window) for sequence, count in parts]
            for window in (None, *self._ledger.windows)
        }
        for window, counts in needed.items():
            if sum(counts) > self._ledger.pages_of(window).free:
                self._ledger.pages_of(window).take(sum(counts))  # raises, naming the numbers
        for window, counts in needed.items():
            new_pages = self.take(sum(counts), window)
            for (sequence, _), count in zip(parts, counts):
                sequence.tables[window] += new_pages[:count]
                new_pages = new_pages[count:]

    def take(self, count: int, window: int | None) -> list[int]:
        """Pages, to be zeroed."""
        pages = self._ledger.pages_of(window).take(count)
        if pages:
            self._plan(Command("zero_pages", tuple((page,) for page in pages), window))
        return pages

    # Sharing

    def share(self, sequence: Sequence, other: Sequence) -> None:
        """Give another sequence the same pages, and a copy of the one that both go on to write."""
        for window, pages in sequence.tables.items():
            table = pages[: num_pages_for(sequence.length)]
            self._ledger.pages_of(window).hold(page for page in table if page)
            other.tables[window] = table
            if sequence.length % CHUNK:
                self._copy(table, len(table) - 1, window)

    def unshare(self, sequence: Sequence, length: int) -> None:
        """Before rows of a whole page are written again, from `length` on: a copy of it, since others may share it."""
        if length == sequence.length or length % CHUNK == 0:
            return
        place = length // CHUNK
        for window, table in sequence.tables.items():
            if place < len(table) and self._ledger.pages_of(window).is_shared(table[place]):
                self._copy(table, place, window)

    def _copy(self, table: list[int], place: int, window: int | None) -> None:
        old = table[place]
        (new,) = self._ledger.pages_of(window).take(1)
        self._plan(Command("copy_pages", ((old, new),), window))
        table[place] = new
        self._ledger.pages_of(window).give_back([old])

    def keep_windows(self, sequence: Sequence, length: int) -> WindowPages:
        """Keep, for the prefix cache, the pages that a row after `length` tokens, a multiple of 64, can see."""
        kept = []
        for window, units in self._ledger.windows.items():
            first = first_window_page(length, window)
            table = [0] * first + sequence.tables[window][first : length // CHUNK]
            units.keep(page for page in table if page)
            kept.append((window, tuple(table)))
        return tuple(kept)

    def drop_windows(self, kept: WindowPages) -> None:
        """Let them go."""
        for window, table in kept:
            self._ledger.pages_of(window).drop(page for page in table if page)

    def hold(self, sequence: Sequence, pages: List[int], kept: WindowPages) -> None:
        """Give an empty sequence pages that are kept."""
        for window, table in ((None, pages), *kept):
            self._ledger.pages_of(window).hold(page for page in table if page)
            sequence.tables[window] = list(table)

    # Giving back

    def leave_window(self, sequence: Sequence) -> None:
        """Give back the pages that no later row can see."""
        for window in self._ledger.windows:
            table = sequence.tables[window]
            past = [n for n in range(first_window_page(sequence.length, window)) if table[n]]
            self._ledger.pages_of(window).give_back([table[n] for n in past])
            for n in past:
                table[n] = 0

    def cut(self, sequence: Sequence, length: int) -> None:
        """Give back the pages past `length` tokens."""
        kept = num_pages_for(length)
        for window, table in sequence.tables.items():
            self._ledger.pages_of(window).give_back([page for page in table[kept:] if page])
            del table[kept:]
