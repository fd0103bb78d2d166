"""Who is next: the queue of waiting generations, and who among the running ones gives way.

The order is: priority (the lower number first); within a priority what was preempted, oldest first; then fairness
across keys; then arrival within a key. A request of a lower priority waits for as long as higher ones fill the engine;
within a priority nobody starves.

Fairness is the virtual token counter of "Fairness in Serving Large Language Models" (Sheng et al., OSDI 2024, arXiv
2401.00588, algorithm 2), a token-granular relative of start-time fair queueing (Goyal et al., SIGCOMM 1996). Each key
has a counter of the tokens computed for it; the key with the smallest one is next. A key that comes back after a pause
is lifted to the smallest counter of those that wait (or, if nobody waits, to that of the key that left last), so that
being idle earns nothing. While two keys always have something waiting, what they were served differs by at most twice
the tokens that one step and one prompt can add (theorem 4.4 there). Prompt tokens and generated ones weigh the same; a
token whose state is restored costs nothing, and one that is computed again after a preemption is not charged again.
Each priority has counters of its own.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence

from hyla.engine.generation import Generation

MOST_IDLE_KEYS = 1024
"""Keys without waiting requests whose counters are remembered, for each priority."""
MOST_DISPLACED = 2
"""How often a generation may have to make room for one of a higher priority; after that nobody displaces it."""


def rank(generation: Generation) -> tuple[int, int, int]:
    """Lower ranks keep their pages: priority, then arrival. Who was displaced often enough comes before all others, so
    that a stream of higher priorities cannot make it start again and again."""
    if generation.num_displaced >= MOST_DISPLACED:
        return (0, 0, generation.arrival)
    return (1, generation.priority, generation.arrival)


def victim(running: Sequence[Generation]) -> Generation:
    """Whom to preempt: the lowest priority, and the youngest of it."""
    return max(running, key=rank)


def may_displace(newcomer: Generation, running: Generation) -> bool:
    """Whether a waiting generation may take a running one's place. Never among equals, so nobody trades places."""
    return running.num_displaced < MOST_DISPLACED and newcomer.priority < running.priority


class _Level:
    """The waiting generations of one priority."""

    def __init__(self):
        self.returned: list[Generation] = []
        """Preempted ones, oldest first."""
        self.keys: dict[str, OrderedDict[Generation, None]] = {}
        """The waiting generations of each key that has some, in order of arrival."""
        self.served: dict[str, int] = {}
        """The virtual token counters."""
        self._last_key: str | None = None
        """The key that left the queue last."""

    def add(self, generation: Generation) -> None:
        key = generation.key
        if key not in self.keys:
            self.served[key] = max(self.served.get(key, 0), self._lift())
            self.keys[key] = OrderedDict()
        self.keys[key][generation] = None

    def _lift(self) -> int:
        """What the counter of a key that becomes active is raised to."""
        if self.keys:
            return min(self.served[key] for key in self.keys)
        return self.served[self._last_key] if self._last_key is not None else 0

    def charge(self, key: str, num_tokens: int) -> None:
        self.served[key] = self.served.get(key, 0) + num_tokens

    def peek(self, started_only: bool) -> Generation | None:
        if self.returned:
            return self.returned[0]
        if started_only or not self.keys:
            return None
        return min((next(iter(waiting)) for waiting in self.keys.values()), key=self._turn)

    def ordered(self) -> list[Generation]:
        new = [generation for waiting in self.keys.values() for generation in waiting]
        return self.returned + sorted(new, key=self._turn)

    def _turn(self, generation: Generation) -> tuple[int, int]:
        return (self.served[generation.key], generation.arrival)

    def remove(self, generation: Generation) -> None:
        if generation in self.returned:
            self.returned.remove(generation)
            return
        waiting = self.keys[generation.key]
        del waiting[generation]
        if not waiting:
            del self.keys[generation.key]
            self._last_key = generation.key
            self._forget_idle()

    def _forget_idle(self) -> None:
        """Bound the counters of keys that wait for nothing; the smallest mean the least. In batches, to be cheap."""
        if len(self.served) - len(self.keys) <= 2 * MOST_IDLE_KEYS:
            return
        idle = [key for key in self.served if key not in self.keys and key != self._last_key]
        for key in sorted(idle, key=self.served.__getitem__)[:-MOST_IDLE_KEYS]:
            del self.served[key]


class WaitingQueue:
    """Waiting generations in the order in which they will start."""

    def __init__(self):
        self._levels: dict[int, _Level] = {}
        self._level_of: dict[Generation, _Level] = {}
        """The level that each waiting generation is in."""
        self._timed: dict[Generation, None] = {}
        """Those with a deadline."""
        self._choices = Counter()
        """How many choices of each request wait, by request id."""
        self.num_tokens = 0
        """Tokens to compute before each of the waiting ones can go on: prompts, and the answers of preempted ones."""
        self.num_started = self.num_started_tokens = 0
        """How many were popped since the queue was made, and their tokens; never put back into the count."""
        self.only_started = False
        """While True, only what was running before is offered; everything new waits."""

    def __len__(self) -> int:
        return len(self._level_of)

    def __contains__(self, generation: Generation) -> bool:
        return generation in self._level_of

    def __iter__(self) -> Iterator[Generation]:
        """All of them, in the order in which they would start now."""
        for priority in sorted(self._levels):
            yield from self._levels[priority].ordered()

    @property
    def num_requests(self) -> int:
        """Requests with at least one waiting choice."""
        return len(self._choices)

    def add(self, generation: Generation) -> None:
        """A new generation, behind those of its key. Arrivals must come in order."""
        level = self._enter(generation)
        level.add(generation)

    def put_back(self, generation: Generation) -> None:
        """A preempted generation, before those of its priority that have not started."""
        level = self._enter(generation)
        insort(level.returned, generation, key=lambda waiting: waiting.arrival)

    def _enter(self, generation: Generation) -> _Level:
        level = self._levels.setdefault(generation.priority, _Level())
        self._level_of[generation] = level
        if generation.deadline is not None:
            self._timed[generation] = None
        self._choices[generation.request.request_id] += 1
        self.num_tokens += len(generation.tokens)
        return level

    def remove(self, generation: Generation) -> None:
        """Forget one that waits. Raises KeyError for any other."""
        self._level_of.pop(generation).remove(generation)
        self._timed.pop(generation, None)
        name = generation.request.request_id
        self._choices[name] -= 1
        if not self._choices[name]:
            del self._choices[name]
        self.num_tokens -= len(generation.tokens)

    def peek(self) -> Generation | None:
        """The next one, which stays; None when nobody may start."""
        for priority in sorted(self._levels):
            found = self._levels[priority].peek(self.only_started)
            if found is not None:
                return found
        return None

    def pop(self) -> Generation:
        """The next one, taken out. Raises IndexError when nobody may start."""
        generation = self.peek()
        if generation is None:
            raise IndexError("nobody who may start is waiting")
        self.remove(generation)
        self.num_started += 1
        self.num_started_tokens += len(generation.tokens)
        return generation

    def charge(self, generation: Generation, start: int, count: int) -> None:
        """The positions start to start + count of a generation are computed: its key pays for those that are new."""
        end = start + count
        new = end - max(start, generation.num_charged)
        if new > 0:
            generation.num_charged = end
            self._levels.setdefault(generation.priority, _Level()).charge(generation.key, new)

    def expired(self, now: float) -> list[Generation]:
        """Those whose deadline has come; they stay until they are removed."""
        return [one for one in self._timed if one.deadline is not None and one.deadline <= now]
