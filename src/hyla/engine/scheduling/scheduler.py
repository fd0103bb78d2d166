"""Continuous batching: what the next step computes.

Decodes come first, with their drafts, then prompts in pieces within the step's token budget, then new requests in the
order of `waiting.py`, each taken up where the prefix cache has its beginning. When pages run out, cached ones are
evicted; then the running generation of the lowest priority, and the youngest of it, gives its pages back and is
computed again later; because a token does not depend on how its prefix was computed, nobody can tell. A new request of
a higher priority may take the place of running ones in the same way. The scheduler never raises for lack of memory: a
request that cannot fit alone was refused before it came here.

Progress is certain: the running generation of the best rank never gives way for pages, an admission never displaces an
equal, and nobody is displaced by an admission more than MOST_DISPLACED times.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Sequence

from hyla.caches import Cache
from hyla.caches.prefix import PrefixCache
from hyla.engine.drafts.protocol import Part
from hyla.engine.generation import Generation
from hyla.engine.scheduling.reuse import PrefixReuse
from hyla.engine.scheduling.step import Step
from hyla.engine.scheduling.waiting import WaitingQueue, may_displace, rank, victim
from hyla.grid import CHUNK, num_pages_for


class Scheduler:
    """Waiting and running generations over one cache pool.

    prefix: the prefix cache; None: every prompt is computed whole. num_drafts: how many drafts a generation should get
    beside `n` others that decode; None: none ever. on_leave: told of each generation that loses its place.
    """

    def __init__(
        self,
        cache: Cache,
        *,
        max_num_sequences: int,
        prefill_chunk: int,
        max_batch_tokens: int,
        prefix: PrefixCache | None = None,
        snapshot_every: int = 2048,
        num_drafts: Callable[[Generation, int], int] | None = None,
        on_leave: Callable[[Generation], None] = lambda generation: None,
    ):
        self.cache, self._prefix = cache, prefix
        self.max_num_sequences = max_num_sequences
        self.prefill_chunk = prefill_chunk
        self.max_batch_tokens = max_batch_tokens
        self.reuse = PrefixReuse(cache, prefix, snapshot_every)
        self._num_drafts, self._on_leave = num_drafts, on_leave
        self.waiting = WaitingQueue()
        self.running: list[Generation] = []
        """Best rank first."""
        self.num_preemptions = 0
        self.failed: list[tuple[Generation, Exception]] = []
        """Who could not be started, and why; whoever calls `plan` ends them."""

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    @property
    def free_slots(self) -> int:
        """How many more generations could run at once."""
        return min(self.max_num_sequences - len(self.running), self.cache.ledger.slots.free)

    def add(self, generation: Generation) -> None:
        self.waiting.add(generation)

    def remove(self, generation: Generation, *, keep: bool = True) -> None:
        """Forget a generation, finished or not, and give back what it holds. keep: its last state may serve others;
        False when its rows are not to be trusted."""
        if generation in self.waiting:
            self.waiting.remove(generation)
        if generation.sequence is None:
            return
        if generation in self.running:
            self.running.remove(generation)
        self._leave(generation, keep)

    def _leave(self, generation: Generation, keep: bool) -> None:
        """Give the place in the cache back."""
        if keep:
            self.reuse.keep_last(generation)
        self.cache.close(generation.place)
        generation.sequence = generation.branch = None
        generation.marks.clear()
        self._on_leave(generation)

    def expired(self, now: float) -> list[Generation]:
        """Waiting and running generations whose deadline has come."""
        late = [one for one in self.running if one.deadline is not None and one.deadline <= now]
        return self.waiting.expired(now) + late

    def preempt_all(self) -> None:
        """Everything that runs gives its cached state back and waits, to be computed again from its tokens."""
        for generation in reversed(tuple(self.running)):
            self._preempt(generation)

    # Planning

    def plan(self) -> list[Part]:
        """Parts of the next step. Empty only when nobody has work, or may start it."""
        step = Step()
        decoding = [g for g in self.running if self._is_decoding(g)]
        for generation in decoding:
            if generation.sequence is not None:
                self._schedule_decode(generation, len(decoding), step)
        for generation in list(self.running):
            if generation.sequence is not None and generation not in decoding:
                self._schedule(Part(generation, self._piece(generation, step)), step)
        started = []
        while (generation := self._next_with_room(step)) is not None:
            hit = self.reuse.look_up(generation)
            if self.reuse.is_being_computed(generation, hit, self.running):
                break
            self.waiting.pop()
            try:
                self.reuse.start(generation, hit)
            except Exception as error:  # it holds nothing; the others go on
                self.failed.append((generation, error))
                continue
            insort(self.running, generation, key=rank)
            started.append(generation)
            self._schedule(Part(generation, self._piece(generation, step)), step)
        self._end_unprepared(started, step)
        self._take_room(step)
        for generation, part in step.parts.items():
            self.waiting.charge(generation, generation.place.length, part.num_known)
        # Decodes of neighbouring slots read the state in place.
        return sorted(
            step.parts.values(), key=lambda part: (part.num_known + part.num_drafts > 1, part.generation.place.slot)
        )

    def _take_room(self, step: Step) -> None:
        """Evict for the pages of the step, which were counted as free."""
        if self._prefix is not None:
            for window, count in step.pages.items():
                self._prefix.make_room(count, window)

    def _end_unprepared(self, started: Sequence[Generation], step: Step) -> None:
        """Prepare the places of new generations; who cannot have one fails alone."""
        self.cache.apply()
        for generation in started:
            if generation.sequence is None:
                continue  # preempted since
            error = self.cache.failure_of(generation.place)
            if error is not None:
                step.drop(generation)
                self.running.remove(generation)
                self.failed.append((generation, error))

    @staticmethod
    def _is_decoding(generation: Generation) -> bool:
        """Whether only its newest tokens are not computed: one, or those that follow a withdrawn verification."""
        return generation.num_output_tokens > 0 and 0 < generation.num_pending <= min(
            generation.num_output_tokens, CHUNK
        )

    def _schedule_decode(self, generation: Generation, num_decoding: int, step: Step) -> None:
        known = generation.num_pending
        drafts = self._drafts_that_fit(generation, known, num_decoding, step)
        self._schedule(Part(generation, known, drafts), step)

    def _drafts_that_fit(self, generation: Generation, known: int, num_decoding: int, step: Step) -> int:
        """Drafts cost nobody anything: neither pages that are short, nor another's share of the step."""
        if self._num_drafts is None:
            return 0
        most = min(
            generation.most_tokens - len(generation.tokens) - 1,
            self.max_batch_tokens - step.num_tokens - num_decoding - known,
        )
        drafts = min(self._num_drafts(generation, num_decoding), most) if most > 0 else 0
        if drafts <= 0:
            return 0
        has_slot = self.cache.ledger.slots.free > step.num_backups
        if not has_slot and self.cache.needs_backup(generation.place, known, drafts):
            return 0
        pages = self._pages_for(generation, known + drafts)
        return drafts if all(self._available(w, step) >= count for w, count in pages.items()) else 0

    def _piece(self, generation: Generation, step: Step) -> int:
        """Prompt tokens to compute now; a piece that is not the last ends on the 64-token grid where it can, and none
        passes a mark by 64 tokens."""
        left = max(self.max_batch_tokens - step.num_tokens, 0)
        count = min(generation.num_pending, self.prefill_chunk, left)
        start = generation.place.length
        end = start + count
        aligned = end // CHUNK * CHUNK - start
        count = aligned if count < generation.num_pending and aligned > 0 else count
        passed = [mark - start for mark in generation.marks if start < mark <= start + count - CHUNK]
        return min(passed, default=count)

    def _schedule(self, part: Part, step: Step) -> None:
        """Add a part, preempting worse ranks until its pages are there; itself waits if it has the worst."""
        if part.num_known == 0:
            return
        generation = part.generation
        pages = self._pages_for(generation, part.num_known + part.num_drafts)
        while any(count > self._available(window, step) for window, count in pages.items()):
            last = victim(self.running)
            step.drop(last)
            last.num_displaced += last.priority > generation.priority
            self._preempt(last)
            if last is generation:
                return
        backups = int(self.cache.needs_backup(generation.place, part.num_known, part.num_drafts))
        step.add(part, pages, backups)

    def _available(self, window: int | None, step: Step) -> int:
        """Pages that the step may still take: free ones, and cached ones, which can be evicted."""
        units = self.cache.units_of(window)
        return units.free + units.cached - step.pages[window]

    def _pages_for(self, generation: Generation, count: int) -> dict[int | None, int]:
        """New pages, by window, that the generation needs for `count` more tokens."""
        place = generation.place
        return {window: self.cache.num_missing_pages(place, count, window) for window in place.tables}

    def _preempt(self, generation: Generation) -> None:
        self.running.remove(generation)
        self._leave(generation, keep=True)
        self.waiting.put_back(generation)
        self.num_preemptions += 1

    # Starting

    def _next_with_room(self, step: Step) -> Generation | None:
        """The next waiting generation, if it may start; displaces lower priorities where that is enough."""
        newcomer = self.waiting.peek()
        if newcomer is None:
            return None
        staying, displaced = list(self.running), []
        while not self._fits(newcomer, staying, displaced, step):
            if not staying or not may_displace(newcomer, victim(staying)):
                return None
            displaced.append(victim(staying))
            staying.remove(displaced[-1])
        for generation in displaced:
            step.drop(generation)
            generation.num_displaced += 1
            self._preempt(generation)
        return self.waiting.peek()

    def _fits(
        self, newcomer: Generation, running: Sequence[Generation], displaced: Sequence[Generation], step: Step
    ) -> bool:
        """Whether a waiting generation may start beside `running` once `displaced` are gone: a slot, tokens of the
        budget, and pages for all its tokens beside those that running prompts still need, and one for each running
        generation to grow into."""
        if len(running) >= self.max_num_sequences:
            return False
        if self.cache.ledger.slots.free - step.num_backups + len(displaced) < 1:
            return False
        if step.num_tokens - sum(map(step.num_tokens_of, displaced)) >= self.max_batch_tokens:
            return False
        if not running:
            return True
        missing = self.cache.num_missing_pages
        promised = sum(missing(g.place, g.num_pending + 1) for g in running) + len(running)
        needed = num_pages_for(len(newcomer.tokens) + 1)
        units = self.cache.ledger.pages
        free = units.free + units.cached + sum(len(generation.place.pages) for generation in displaced)
        return free - promised >= needed
