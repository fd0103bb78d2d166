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


class Step:
    """What one step will compute, while it is put together."""

    def __init__(self):
        self.tokens: dict[Generation, int] = {}
        self._pages: dict[Generation, int] = {}
        self.num_tokens = self.num_pages = 0

    def add(self, generation: Generation, num_tokens: int, num_pages: int) -> None:
        self.tokens[generation], self._pages[generation] = num_tokens, num_pages
        self.num_tokens += num_tokens
        self.num_pages += num_pages

    def drop(self, generation: Generation) -> None:
        """Take a part out again, if it is there."""
        self.num_tokens -= self.tokens.pop(generation, 0)
        self.num_pages -= self._pages.pop(generation, 0)


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
        step = Step()
        for generation in list(self.running):
            if generation.sequence is not None and generation.num_pending == 1:
                self._schedule(generation, 1, step)
        for generation in list(self.running):
            if generation.sequence is not None and generation.num_pending > 1:
                self._schedule(generation, self._piece(generation, step), step)
        while self._may_admit(step):
            generation = self.waiting.popleft()
            generation.sequence = self.cache.open()
            self.running.append(generation)
            self._schedule(generation, self._piece(generation, step), step)
        # Decodes of neighbouring slots read the state in place.
        return sorted(step.tokens.items(), key=lambda part: (part[1] > 1, part[0].sequence.slot))

    def _piece(self, generation: Generation, step: Step) -> int:
        """Prompt tokens to compute now; a piece that is not the last ends on the 64-token grid where it can."""
        left = max(self.max_batch_tokens - step.num_tokens, 0)
        count = min(generation.num_pending, self.prefill_chunk, left)
        end = generation.sequence.length + count
        aligned = end // CHUNK * CHUNK - generation.sequence.length
        return aligned if count < generation.num_pending and aligned > 0 else count

    def _schedule(self, generation: Generation, count: int, step: Step) -> None:
        """Add a part, preempting younger generations until its pages are there; itself waits if it is the youngest."""
        if count == 0:
            return
        needed = self._pages_for(generation, count)
        while needed > self.cache.ledger.pages.free - step.num_pages:
            youngest = self.running[-1]
            step.drop(youngest)
            self._preempt(youngest)
            if youngest is generation:
                return
        step.add(generation, count, needed)

    @staticmethod
    def _pages_for(generation: Generation, count: int) -> int:
        """New pages that the generation needs for `count` more tokens."""
        sequence = generation.sequence
        return max(num_pages_for(sequence.length + count) - len(sequence.pages), 0)

    def _preempt(self, generation: Generation) -> None:
        self.running.remove(generation)
        self.cache.close(generation.sequence)
        generation.sequence = None
        self.waiting.appendleft(generation)
        self.num_preemptions += 1

    def _may_admit(self, step: Step) -> bool:
        """Whether the oldest waiting generation may start: a slot, tokens of the budget, and pages for all its tokens
        beside those that running prompts still need, and one for each running generation to grow into."""
        if not self.waiting or len(self.running) >= self.max_num_sequences or not self.cache.ledger.slots.free:
            return False
        if step.num_tokens >= self.max_batch_tokens:
            return False
        if not self.running:
            return True
        promised = sum(self._pages_for(g, g.num_pending + 1) for g in self.running) + len(self.running)
        needed = num_pages_for(len(self.waiting[0].tokens) + 1)
        return self.cache.ledger.pages.free - promised >= needed
