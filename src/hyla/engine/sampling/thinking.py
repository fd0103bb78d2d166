"""The thinking part of an answer: where it begins and ends, and how long it may be."""

from __future__ import annotations

from collections.abc import Sequence

from hyla.engine.requests.params import SamplingParams


class Thinking:
    """Follows the markers of one choice.

    Thinking is open at first when the parameters say so (`thinking_is_open`), where they say nothing when the prompt's
    last marker is a start or there is no start marker; and later after a start in the answer. When the answer has spent
    its budget of tokens inside (the prompt's do not count), the end marker is forced. Thinking that opens again has
    what is left of the budget.
    """

    def __init__(self, params: SamplingParams, prompt: Sequence[int]):
        self._start, self._end = params.thinking_start_ids, params.thinking_end_ids
        self._budget = params.thinking_budget
        self._used = 0
        self._rest_of_start: tuple[int, ...] = ()
        last_start, last_end = _last_place(prompt, self._start), _last_place(prompt, self._end)
        says_prompt = not self._start or last_start > last_end
        self.is_open = bool(self._end) and (says_prompt if params.thinking_is_open is None else params.thinking_is_open)
        self.has_marker_in_prompt = max(last_start, last_end) >= 0
        self._keep = max(len(self._start), len(self._end))
        self._tail: list[int] = list(prompt[-self._keep :]) if self._keep else []

    @property
    def is_busy(self) -> bool:
        """Whether the next token belongs to thinking or to its start marker."""
        return self.is_open or bool(self._rest_of_start)

    @property
    def forced(self) -> int | None:
        """The only token that may come next, if there is one."""
        if self._rest_of_start:
            return self._rest_of_start[0]
        if not self.is_open or self._budget is None or self._used < self._budget:
            return None
        # The end marker may have begun already.
        fitting = (n for n in range(len(self._end) - 1, 0, -1) if self._ends_with(self._end[:n]))
        return self._end[next(fitting, 0)]

    def _ends_with(self, marker: Sequence[int]) -> bool:
        return tuple(self._tail[-len(marker) :]) == tuple(marker)

    def begin(self) -> None:
        """The next token is known to be the first of a start marker: the rest of it is forced."""
        self._rest_of_start = self._start

    def advance(self, token: int) -> None:
        if not self._end:
            return
        self._tail = [*self._tail, token][-self._keep :]
        self._rest_of_start = self._rest_of_start[1:]
        if self.is_open:
            self._used += 1
            self.is_open = not self._ends_with(self._end)
        elif self._start:
            self.is_open = self._ends_with(self._start)


def _last_place(tokens: Sequence[int], marker: Sequence[int]) -> int:
    """The place where a marker stands last, -1 when nowhere."""
    size, marker = len(marker), tuple(marker)
    places = range(len(tokens) - size, -1, -1) if size else ()
    return next((n for n in places if tokens[n] == marker[0] and tuple(tokens[n : n + size]) == marker), -1)
