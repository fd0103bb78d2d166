"""Pages of 64 tokens: their tensors, and the tables that say which of them a sequence has."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as List

import torch

from hyla.caches.ledger import Ledger, Units
from hyla.caches.protocol import Sequence
from hyla.caches.storage import allocate
from hyla.grid import CHUNK, num_pages_for
from hyla.layers.protocol import CacheSpec, LayerCache
from hyla.ops.attention.cost import LOOK_BACK

WindowPages = tuple[tuple[int, tuple[int, ...]], ...]
"""(window, a table of pages, 0 for those behind it)."""


def first_window_page(length: int, window: int) -> int:
    """Index of the first page that a row from position floor(length / 64) * 64 - LOOK_BACK on can see."""
    return max(length // CHUNK * CHUNK - window + 1 - LOOK_BACK, 0) // CHUNK


class PageTables:
    """The pages of all layers. Layers with the same window (None: those that see everything) share a table.

    layers: per mixer a dict name -> [pages + 1, *shape], after `allocate`.
    """

    def __init__(self, specs: List[CacheSpec], ledger: Ledger, device: torch.device):
        self._specs, self._ledger, self._device = specs, ledger, device
        self.layers: tuple[LayerCache, ...] = ()

    def allocate(self) -> None:
        """Make the tensors, all zero."""
        counts = [self.units_of(spec.window).total if spec.page_tensors else 0 for spec in self._specs]
        self.layers = tuple(
            allocate(spec.page_tensors, count, self._device) for spec, count in zip(self._specs, counts)
        )

    def release(self) -> None:
        """Free the tensors."""
        self.layers = ()

    def units_of(self, window: int | None) -> Units:
        """The ledger's pages of a window."""
        return self._ledger.pages if window is None else self._ledger.windows[window]

    def tensors_of(self, window: int | None) -> Iterator[torch.Tensor]:
        """Every page tensor of a window."""
        for spec, layer in zip(self._specs, self.layers):
            yield from layer.values() if spec.window == window else ()

    # Taking

    def num_missing(self, sequence: Sequence, num_tokens: int, window: int | None) -> int:
        """Pages to be taken before `num_tokens` more rows can be written."""
        return max(num_pages_for(sequence.length + num_tokens) - len(sequence.tables[window]), 0)

    def reserve(self, parts: List[tuple[Sequence, int]]) -> None:
        """Take (and zero) the pages of all (sequence, new tokens). Raises CapacityError, taking nothing."""
        needed = {
            window: [self.num_missing(sequence, count, window) for sequence, count in parts]
            for window in (None, *self._ledger.windows)
        }
        short = next((w for w, counts in needed.items() if sum(counts) > self.units_of(w).free), "none")
        if short != "none":
            self.units_of(short).take(sum(needed[short]))  # raises, naming the numbers
        for window, counts in needed.items():
            new_pages = self.take(sum(counts), window)
            for (sequence, _), count in zip(parts, counts):
                sequence.tables[window] += new_pages[:count]
                new_pages = new_pages[count:]

    def take(self, count: int, window: int | None) -> list[int]:
        """Zeroed pages."""
        with self.units_of(window).taking(count) as pages:
            if pages:
                index = torch.tensor(pages, device=self._device)
                for tensor in self.tensors_of(window):
                    tensor.index_fill_(0, index, 0)
        return pages

    # Sharing

    def share(self, sequence: Sequence, other: Sequence) -> None:
        """Give another sequence the same pages, and a copy of the one that both go on to write."""
        for window, pages in sequence.tables.items():
            table = pages[: num_pages_for(sequence.length)]
            self.units_of(window).hold(page for page in table if page)
            other.tables[window] = table
            if sequence.length % CHUNK:
                self._copy(table, len(table) - 1, window)

    def own(self, sequence: Sequence, length: int) -> None:
        """Before rows of a whole page are written again, from `length` on: a copy of it, since others may share it."""
        if length == sequence.length or length % CHUNK == 0:
            return
        place = length // CHUNK
        for window, table in sequence.tables.items():
            if place < len(table) and self.units_of(window).is_shared(table[place]):
                self._copy(table, place, window)

    def _copy(self, table: list[int], place: int, window: int | None) -> None:
        old = table[place]
        with self.units_of(window).taking(1) as (new,):
            for tensor in self.tensors_of(window):
                tensor[new] = tensor[old]
        table[place] = new
        self.units_of(window).give_back([old])

    def keep_windows(self, sequence: Sequence, length: int) -> WindowPages:
        """For the prefix cache: keep the pages that a row after `length` tokens, a multiple of 64, can see."""
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
            self.units_of(window).drop(page for page in table if page)

    def hold(self, sequence: Sequence, pages: List[int], kept: WindowPages) -> None:
        """Give an empty sequence pages that are kept."""
        for window, table in ((None, pages), *kept):
            self.units_of(window).hold(page for page in table if page)
            sequence.tables[window] = list(table)

    # Giving back

    def leave_window(self, sequence: Sequence) -> None:
        """Give back the pages that no later row can see."""
        for window in self._ledger.windows:
            table = sequence.tables[window]
            past = [n for n in range(first_window_page(sequence.length, window)) if table[n]]
            self.units_of(window).give_back([table[n] for n in past])
            for n in past:
                table[n] = 0

    def cut(self, sequence: Sequence, length: int) -> None:
        """Give back the pages past `length` tokens."""
        kept = num_pages_for(length)
        for window, table in sequence.tables.items():
            self.units_of(window).give_back([page for page in table[kept:] if page])
            del table[kept:]
