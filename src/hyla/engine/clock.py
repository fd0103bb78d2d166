"""Time as the engine sees it: a function that can be replaced, so that deadlines are testable without sleeping."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

Clock = Callable[[], float]
"""Seconds since some fixed moment; never goes back."""

monotonic: Clock = time.monotonic


class ManualClock:
    """A clock that moves only when told.

    >>> clock = ManualClock()
    >>> clock.advance(2.5)
    >>> clock()
    2.5
    """

    def __init__(self, now: float = 0.0):
        self._now = now

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds


class RecentRate:
    """How much happened per second, over the last `window_seconds`. Any thread may add and ask."""

    def __init__(self, clock: Clock, window_seconds: float = 60.0):
        self._clock, self._window = clock, window_seconds
        self._entries: deque[tuple[float, int]] = deque()
        self._total = 0
        self._first: float | None = None
        self._lock = threading.Lock()

    def add(self, amount: int) -> None:
        """Something happened now. Entries of the same tenth of a second are kept as one."""
        now = round(self._clock(), 1)
        with self._lock:
            self._first = now if self._first is None else self._first
            self._total += amount
            if self._entries and self._entries[-1][0] == now:
                amount += self._entries.pop()[1]
            self._entries.append((now, amount))
            self._drop_old()

    def per_second(self) -> float:
        """0 when nothing happened within the window; the first second counts as a whole one."""
        with self._lock:
            if self._first is None:
                return 0.0
            self._drop_old()
            return self._total / min(max(self._clock() - self._first, 1.0), self._window)

    def _drop_old(self) -> None:
        oldest = self._clock() - self._window
        while self._entries and self._entries[0][0] < oldest:
            self._total -= self._entries.popleft()[1]
