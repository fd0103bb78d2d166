"""Conversations drawn row beside row: what is said and asked in each, and what its keys have meanwhile."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np

from hyla.evals.synthetic.fillers import fillers
from hyla.evals.synthetic.protocol import IGNORED, Examples
from hyla.evals.synthetic.words import below, below_each

PADDING, SET, IS, TOOL, END, ASK = range(6)
OPCODES = 6

Slot = Literal["statement", "tool", "question"]


class TurnPlan(Protocol):
    """What `Turns` says of its examples."""

    length: int
    statements: int
    tools: int
    tool_tokens: int
    keys: int
    values: int
    fillers: int
    hops: int

    @property
    def turns(self) -> int:
        """Of an example."""
        ...

    def slots(self) -> list[Slot]:
        """Of a turn, in order."""
        ...


class Conversations:
    """Examples of `Turns`, from uint64 words [N, num_words]: four of each statement or tool result (key, value, which,
    and other key or place), then those of the fillers, then one of each question.

    Arrays have the rows last, so that a slot's are side by side.
    """

    def __init__(self, task: TurnPlan, words_NW: np.ndarray):
        events = task.turns * (task.statements + task.tools)
        event_words, filler_words, asked_words = np.split(
            words_NW, np.cumsum([4 * events, task.turns * task.tools * task.tool_tokens]), axis=1
        )
        key_words, value_words, self._which_EN, self._other_EN = (
            np.ascontiguousarray(event_words[:, part::4].T) for part in range(4)
        )
        self.task, rows = task, len(words_NW)
        self._key_EN = below(key_words, task.keys)
        self._value_EN = OPCODES + task.keys + below(value_words, task.values)
        chain = fillers(filler_words.reshape(-1, task.tool_tokens), task.fillers)
        self._inside_FN = OPCODES + task.keys + task.values + chain.reshape(rows, -1).T
        self._asked_QN = np.ascontiguousarray(asked_words.T)
        self._keys = _Keys(rows, task.keys, task.hops, events)
        self._tokens_LN = np.full((task.length, rows), PADDING, np.int32)
        self._targets_LN = np.full_like(self._tokens_LN, IGNORED)
        self._is_content_LN = np.zeros(self._tokens_LN.shape, bool)

    def written(self) -> Examples:
        """The examples."""
        event = tool = question = place = 0
        for _ in range(self.task.turns):
            before_N = self._keys.count_N.copy()
            for slot in self.task.slots():
                if slot == "statement":
                    place, event = self._statement(place, event), event + 1
                elif slot == "tool":
                    place, event, tool = self._tool(place, event, tool), event + 1, tool + 1
                else:
                    place, question = self._question(place, question, before_N), question + 1
        whole = (self._tokens_LN, self._targets_LN, self._is_content_LN)
        return Examples(*(np.ascontiguousarray(each_LN.T) for each_LN in whole))

    def _statement(self, place: int, event: int) -> int:
        """`<set> k v` or `<is> k j`; the place behind it."""
        key_N, value_N, keys = self._key_EN[event], self._value_EN[event], self._keys
        other_N = keys.random(self._other_EN[event], keys.count_N)
        is_link_N = (below(self._which_EN[event], 3) == 0) & keys.may_be_linked(key_N, other_N)
        self._tokens_LN[place] = np.where(is_link_N, IS, SET)
        self._tokens_LN[place + 1] = OPCODES + key_N
        self._tokens_LN[place + 2] = np.where(is_link_N, OPCODES + other_N, value_N)
        self._is_content_LN[place + 2] = ~is_link_N
        keys.write(key_N, value_N, np.where(is_link_N, other_N, key_N), True)
        return place + 3

    def _tool(self, place: int, event: int, tool: int) -> int:
        """`<tool> f f k v f f <end>`, or nothing but fillers; the place behind it."""
        key_N, value_N, inside = self._key_EN[event], self._value_EN[event], self.task.tool_tokens
        is_fact_N = below(self._which_EN[event], 2) == 1
        end = place + inside + 1
        self._tokens_LN[place], self._tokens_LN[end] = TOOL, END
        self._tokens_LN[place + 1 : end] = self._inside_FN[tool * inside : (tool + 1) * inside]
        rows_P = np.flatnonzero(is_fact_N)
        fact_P = (place + 1 + below(self._other_EN[event], inside - 1))[rows_P]
        self._tokens_LN[fact_P, rows_P] = OPCODES + key_N[rows_P]
        self._tokens_LN[fact_P + 1, rows_P] = value_N[rows_P]
        self._is_content_LN[fact_P + 1, rows_P] = True
        self._keys.write(key_N, value_N, key_N, is_fact_N)
        return end + 1

    def _question(self, place: int, question: int, before_N: np.ndarray) -> int:
        """`<ask> k`, and what k has; the place behind it."""
        keys = self._keys
        key_N = keys.random(self._asked_QN[question], np.where(before_N > 0, before_N, keys.count_N))
        self._tokens_LN[place], self._tokens_LN[place + 1] = ASK, OPCODES + key_N
        self._targets_LN[place + 1] = keys.value_of(key_N)
        return place + 2


class _Keys:
    """What the keys of each row have. In flat arrays, key k of row n is n * keys + k.

    link: the key whose value counts, the key itself where it has one. num_linked: how many keys are linked to it.
    said_EN: the keys of what was said, in order, so many as count_N.
    """

    def __init__(self, rows: int, keys: int, hops: int, events: int):
        self.hops, self._row_N, self._first_N = hops, np.arange(rows), np.arange(rows) * keys
        self._link = np.arange(rows * keys)
        self._value, self._num_linked = np.zeros((2, rows * keys), np.int64)
        self._said_EN, self.count_N = np.zeros((events + 1, rows), np.int64), np.zeros(rows, np.int64)

    def random(self, words_N: np.ndarray, count_N: np.ndarray) -> np.ndarray:
        """The key of a random one of the first count_N that were said."""
        return self._said_EN[below_each(words_N, count_N), self._row_N]

    def may_be_linked(self, key_N: np.ndarray, other_N: np.ndarray) -> np.ndarray:
        """bool [N]: whether `<is> key other` may be said."""
        _, hops_N = self._followed(other_N)
        is_free_N = self._num_linked[self._first_N + key_N] == 0
        return is_free_N & (hops_N < self.hops) & (other_N != key_N) & (self.count_N > 0)

    def value_of(self, key_N: np.ndarray) -> np.ndarray:
        """The token of its value."""
        return self._value[self._followed(key_N)[0]]

    def _followed(self, key_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(flat: the key whose value counts, links to it)."""
        at_N, hops_N = self._first_N + key_N, 0
        for _ in range(self.hops):
            next_N = self._link[at_N]
            hops_N, at_N = hops_N + (next_N != at_N), next_N
        return at_N, np.asarray(hops_N)

    def write(self, key_N: np.ndarray, value_N: np.ndarray, link_N: np.ndarray, is_said_N: np.ndarray | bool) -> None:
        """Where is_said_N: a key has a value, if link_N is the key itself, or is linked to that."""
        at_N = self._first_N + key_N
        was_N = self._link[at_N]
        to_N = np.where(is_said_N, self._first_N + link_N, was_N)
        self._num_linked[was_N] -= was_N != at_N
        self._num_linked[to_N] += to_N != at_N
        self._link[at_N] = to_N
        self._value[at_N] = np.where(is_said_N, value_N, self._value[at_N])
        self._said_EN[self.count_N, self._row_N] = key_N
        self.count_N += is_said_N
