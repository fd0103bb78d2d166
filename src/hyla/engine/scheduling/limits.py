"""How much may wait: the queue's limits, and the refusal that says when to come back."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hyla.engine.clock import Clock, RecentRate
from hyla.engine.requests.messages import Request
from hyla.engine.requests.overload import Overloaded
from hyla.engine.scheduling.waiting import WaitingQueue

LONGEST_RETRY_SECONDS = 600


@dataclass(frozen=True)
class Load:
    """What waits, or what would be added to it."""

    num_requests: int = 0
    num_tokens: int = 0
    num_choices: int = 0

    @classmethod
    def of(cls, request: Request) -> Load:
        """The load of a resolved request: every choice computes its prompt."""
        return cls(1, len(request.prompt) * request.params.n, request.params.n)

    def __add__(self, other: Load) -> Load:
        return Load(
            self.num_requests + other.num_requests,
            self.num_tokens + other.num_tokens,
            self.num_choices + other.num_choices,
        )


NOTHING = Load()


class QueueLimits:
    """Refuses what would make a queue longer than its limits (None: no limit).

    What finds a free slot is not waiting, so nothing is refused while all that is queued finds one; and an empty queue
    takes a request of any size.
    """

    def __init__(self, queue: WaitingQueue, *, max_requests: int | None, max_tokens: int | None, clock: Clock):
        self._queue, self.max_requests, self.max_tokens = queue, max_requests, max_tokens
        self._requests, self._tokens = RecentRate(clock), RecentRate(clock)
        self._counted = (0, 0)

    def note_starts(self) -> None:
        """Measure how fast the queue moves; to be called after every step."""
        started = (self._queue.num_started, self._queue.num_started_tokens)
        new = [now - before for now, before in zip(started, self._counted)]
        self._counted = started
        if new[0]:
            self._requests.add(new[0])
            self._tokens.add(new[1])

    def check(self, new: Load, *, free_slots: int, ahead: Load = NOTHING) -> None:
        """Raise Overloaded when `new` may not wait too. ahead: what will be queued before it. Any thread may ask."""
        waiting = Load(self._queue.num_requests, self._queue.num_tokens, len(self._queue)) + ahead
        whole = waiting + new
        if not waiting.num_choices or whole.num_choices <= free_slots:
            return
        # A queued request that will find a slot in the next step does not really wait.
        num_waiting = whole.num_requests - free_slots
        surplus = self._over(num_waiting, self.max_requests), self._over(whole.num_tokens, self.max_tokens)
        if not any(surplus):
            return
        seconds = self.retry_after_seconds(*surplus)
        raise Overloaded(
            f"{max(waiting.num_requests - free_slots, 0)} requests with {waiting.num_tokens} tokens wait already and "
            f"this one has {new.num_tokens} tokens; at most {_name(self.max_requests)} requests (max_queued_requests) "
            f"and {_name(self.max_tokens)} tokens (max_queued_tokens) may wait; send it again in {seconds} s",
            seconds,
        )

    @staticmethod
    def _over(number: int, limit: int | None) -> int:
        return 0 if limit is None else max(number - limit, 0)

    def retry_after_seconds(self, num_requests: int = 1, num_tokens: int = 0) -> int:
        """How long until this much has left the queue, at the pace of the last minute; at least one second."""
        longest = 1.0
        for surplus, rate in ((num_requests, self._requests), (num_tokens, self._tokens)):
            pace = rate.per_second()
            if surplus and pace:
                longest = max(longest, surplus / pace)
        return math.ceil(min(longest, LONGEST_RETRY_SECONDS))


def _name(limit: int | None) -> str:
    return "unlimited" if limit is None else str(limit)
