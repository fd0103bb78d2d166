"""Continuous batching: what the next step computes.

Decodes come first, then prompts in pieces within the step's token budget, then new requests in the order of
`waiting.py`. When pages run out the running generation of the lowest priority, and the youngest of it, gives its pages
back and is computed again later; because a token does not depend on how its prefix was computed, nobody can tell. A new
request of a higher priority may take the place of running ones in the same way. The scheduler never raises for lack of
memory: a request that cannot fit alone was refused before it came here.

Progress is certain: the running generation of the best rank never gives way for pages, an admission never displaces an
equal, and nobody is displaced by an admission more than MOST_DISPLACED times.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence

from hyla.caches import Cache
from hyla.caches.pool import num_pages_for
from hyla.engine.generation import Generation
from hyla.engine.waiting import WaitingQueue, may_displace, rank, victim
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
        self.waiting = WaitingQueue()
        self.running: list[Generation] = []
        """Best rank first."""
        self.num_preemptions = 0

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    @property
    def free_slots(self) -> int:
        """How many more generations could run at once."""
        return min(self.max_num_sequences - len(self.running), self.cache.ledger.slots.free)

    def add(self, generation: Generation) -> None:
        self.waiting.add(generation)

    def remove(self, generation: Generation) -> None:
        """Forget a generation, finished or not, and give back what it holds."""
        if generation.sequence is None:
            self.waiting.remove(generation)
            return
        self.running.remove(generation)
        self.cache.close(generation.sequence)
        generation.sequence = None

    def expired(self, now: float) -> list[Generation]:
        """Waiting and running generations whose deadline has come."""
        late = [generation for generation in self.running if generation.deadline is not None]
        return self.waiting.expired(now) + [generation for generation in late if generation.deadline <= now]

    def preempt_all(self) -> None:
        """Everything that runs gives its cached state back and waits, to be computed again from its tokens."""
        for generation in reversed(tuple(self.running)):
            self._preempt(generation)

    def plan(self) -> list[tuple[Generation, int]]:
        """(generation, tokens to compute now) of the next step. Empty only when nobody has work, or may start it."""
        step = Step()
        for generation in list(self.running):
            if generation.sequence is not None and generation.num_pending == 1:
                self._schedule(generation, 1, step)
        for generation in list(self.running):
            if generation.sequence is not None and generation.num_pending > 1:
                self._schedule(generation, self._piece(generation, step), step)
        while self._make_room(step):
            generation = self.waiting.pop()
            generation.sequence = self.cache.open()
            insort(self.running, generation, key=rank)
            self._schedule(generation, self._piece(generation, step), step)
        for generation, count in step.tokens.items():
            self.waiting.charge(generation, generation.sequence.length, count)
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
        """Add a part, preempting worse ranks until its pages are there; itself waits if it has the worst."""
        if count == 0:
            return
        needed = self._pages_for(generation, count)
        while needed > self.cache.ledger.pages.free - step.num_pages:
            last = victim(self.running)
            step.drop(last)
            last.num_displaced += last.priority > generation.priority
            self._preempt(last)
            if last is generation:
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
        self.waiting.put_back(generation)
        self.num_preemptions += 1

    def _make_room(self, step: Step) -> bool:
        """Whether the next waiting generation may start; displaces lower priorities where that is enough."""
        newcomer = self.waiting.peek()
        if newcomer is None:
            return False
        staying, displaced = list(self.running), []
        while not self._fits(newcomer, staying, displaced, step):
            if not staying or not may_displace(newcomer, victim(staying)):
                return False
            displaced.append(victim(staying))
            staying.remove(displaced[-1])
        for generation in displaced:
            step.drop(generation)
            generation.num_displaced += 1
            self._preempt(generation)
        return True

    def _fits(
        self, newcomer: Generation, running: Sequence[Generation], displaced: Sequence[Generation], step: Step
    ) -> bool:
        """Whether a waiting generation may start beside `running` once `displaced` are gone: a slot, tokens of the
        budget, and pages for all its tokens beside those that running prompts still need, and one for each running
        generation to grow into."""
        if len(running) >= self.max_num_sequences or not self.cache.ledger.slots.free + len(displaced):
            return False
        if step.num_tokens - sum(step.tokens.get(generation, 0) for generation in displaced) >= self.max_batch_tokens:
            return False
        if not running:
            return True
        promised = sum(self._pages_for(g, g.num_pending + 1) for g in running) + len(running)
        needed = num_pages_for(len(newcomer.tokens) + 1)
        free = self.cache.ledger.pages.free + sum(len(generation.sequence.pages) for generation in displaced)
        return free - promised >= needed
