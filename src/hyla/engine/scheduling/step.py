"""What one step will compute, while the scheduler puts it together: its parts and what they take."""

from __future__ import annotations

from collections import Counter

from hyla.engine.drafts.protocol import Part
from hyla.engine.generation import Generation


class Step:
    """Parts of one step, with the tokens, pages and backups that are spoken for."""

    def __init__(self):
        self.parts: dict[Generation, Part] = {}
        self.num_tokens = self.num_backups = 0
        self.pages: Counter[int | None] = Counter()
        """How many pages of each window are to be taken."""
        self._taken: dict[Generation, tuple[dict[int | None, int], int]] = {}

    def add(self, part: Part, pages: dict[int | None, int], num_backups: int) -> None:
        self.parts[part.generation], self._taken[part.generation] = part, (pages, num_backups)
        self.num_tokens += part.num_known + part.num_drafts
        for window, count in pages.items():
            self.pages[window] += count
        self.num_backups += num_backups

    def drop(self, generation: Generation) -> None:
        """Take a part out again, if it is there."""
        part = self.parts.pop(generation, None)
        if part is not None:
            pages, num_backups = self._taken.pop(generation)
            self.num_tokens -= part.num_known + part.num_drafts
            self.pages.subtract(pages)
            self.num_backups -= num_backups

    def num_tokens_of(self, generation: Generation) -> int:
        part = self.parts.get(generation)
        return part.num_known + part.num_drafts if part is not None else 0
