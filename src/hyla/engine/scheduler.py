"""Continuous batching: what the next step computes.

Decodes come first, then prompts in pieces within the step's token budget, then new requests, first come first served.
When pages run out the youngest running generation gives its pages back and is computed again later; because a token
does not depend on how its prefix was computed, nobody can tell. The scheduler never raises for lack of memory: a
request that cannot fit alone was refused before it came here.
"""

from __future__ import annotations

from collections import deque

from hyla.caches import Cache
from hyla.caches.pool import num_pages_for
from hyla.engine.generation import Generation
from hyla.ops.batch import CHUNK


class Scheduler:
    """Waiting and running generations over one cache pool."""

    def __init__(self, cache: Cache, *, max_num_sequences: int, prefill_chunk: int, max_batch_tokens: int):
        self.cache = cache
        self.max_num_sequences = max_num_sequences
        self.prefill_chunk = prefill_chunk
        self.max_batch_tokens = max_batch_tokens
        self.waiting: deque[Generation] = deque()
        """Oldest first."""
        self.running: list[Generation] = []
        """Oldest first."""
        self.num_preemptions = 0

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def add(self, generation: Generation) -> None:
        self.waiting.append(generation)

    def remove(self, generation: Generation) -> None:
        """Forget a generation, finished or not, and give back what it holds."""
        if generation.sequence is None:
            self.waiting.remove(generation)
            return
        self.running.remove(generation)
        self.cache.close(generation.sequence)
        generation.sequence = None

    def plan(self) -> list[tuple[Generation, int]]:
        """(generation, tokens to compute now) of the next step. Empty only when there is no work."""
        parts: dict[Generation, int] = {}
        for generation in list(self.running):
            if generation.num_pending == 1 and generation in self.running:
                self._schedule(generation, 1, parts)
        for generation in list(self.running):
            if generation.num_pending > 1 and generation in self.running:
                self._schedule(generation, self._piece(generation, parts), parts)
        while self._may_admit(parts):
            generation = self.waiting.popleft()
            generation.sequence = self.cache.open()
            self.running.append(generation)
            self._schedule(generation, self._piece(generation, parts), parts)
        # Decodes of neighbouring slots read the state in place.
        return sorted(parts.items(), key=lambda part: (part[1] > 1, part[0].sequence.slot))

    def _piece(self, generation: Generation, parts: dict[Generation, int]) -> int:
        """Prompt tokens to compute now; a piece that is not the last ends on the 64-token grid where it can."""
        left = self.max_batch_tokens - sum(parts.values())
        count = min(generation.num_pending, self.prefill_chunk, max(left, 0))
        end = generation.sequence.length + count
        aligned = end // CHUNK * CHUNK - generation.sequence.length
        return aligned if count < generation.num_pending and aligned > 0 else count

    def _schedule(self, generation: Generation, count: int, parts: dict[Generation, int]) -> None:
        """Add a part, preempting younger generations until its pages are there; itself waits if it is the youngest."""
        if count == 0:
            return
        while self._pages_for(generation, count) > self._free_pages(parts):
            youngest = self.running[-1]
            parts.pop(youngest, None)
            self._preempt(youngest)
            if youngest is generation:
                return
        parts[generation] = count

    def _pages_for(self, generation: Generation, count: int) -> int:
        """New pages that the generation needs for `count` more tokens."""
        sequence = generation.sequence
        return max(num_pages_for(sequence.length + count) - len(sequence.pages), 0)

    def _free_pages(self, parts: dict[Generation, int]) -> int:
        return self.cache.ledger.pages.free - sum(self._pages_for(*part) for part in parts.items())

    def _preempt(self, generation: Generation) -> None:
        self.running.remove(generation)
        self.cache.close(generation.sequence)
        generation.sequence = None
        self.waiting.appendleft(generation)
        self.num_preemptions += 1

    def _may_admit(self, parts: dict[Generation, int]) -> bool:
        """Whether the oldest waiting generation may start: a slot, tokens of the budget, and pages for all its tokens
        beside those that running prompts still need, and one for each running generation to grow into."""
        if not self.waiting or len(self.running) >= self.max_num_sequences or not self.cache.ledger.slots.free:
            return False
        if sum(parts.values()) >= self.max_batch_tokens:
            return False
        if not self.running:
            return True
        promised = sum(self._pages_for(g, g.num_pending + 1) for g in self.running) + len(self.running)
        needed = num_pages_for(len(self.waiting[0].tokens) + 1)
        return self.cache.ledger.pages.free - promised >= needed
