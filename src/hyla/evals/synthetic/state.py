"""Following what changes: stacks, and variables that are defined by others."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from hyla.evals.synthetic.protocol import IGNORED, Examples, SyntheticTask
from hyla.evals.synthetic.words import below, below_each, distinct
from hyla.models.config import Count

PADDING, PUSH, POP = 0, 1, 2
SEPARATOR, SET, IS = 0, 1, 2
OPCODES = 3


class Stack(SyntheticTask):
    """`<push> id x` and `<pop> id x` on many stacks; at the id of a pop the model has to say x, which was pushed last
    (Kimi Linear, arXiv 2510.26692, section 5.1: 64 stacks; how many symbols, and how often is popped, is ours).

    Every operation is three tokens. It is a pop with a chance of 1/2 where a stack has something, of a random such
    stack, else a push of a random symbol to a random stack. Tokens: 0 padding (what is left of the length), 1 push, 2
    pop, then the ids of stacks, then symbols.
    """

    kind: Literal["stack"] = "stack"
    stacks: Count = 64
    """How many stacks there are."""
    symbols: Annotated[int, Field(ge=2)] = 64
    """Different symbols."""

    @property
    def vocab_size(self) -> int:
        return OPCODES + self.stacks + self.symbols

    @property
    def operations(self) -> int:
        """Operations of an example."""
        return self.length // 3

    @property
    def num_words(self) -> int:
        return 3 * self.operations

    @property
    def chance(self) -> float:
        return 1 / self.symbols

    def draw(self, words_NW: np.ndarray) -> Examples:
        rows, row_N = len(words_NW), np.arange(len(words_NW))
        tokens_NL = np.full((rows, self.length), PADDING, np.int32)
        targets_NL = np.full_like(tokens_NL, IGNORED)
        is_content_NL = np.zeros(tokens_NL.shape, bool)
        pushed_NO = OPCODES + self.stacks + below(words_NW[:, 2::3], self.symbols)
        filled = _Filled(rows, self.stacks)
        top_NK, under_NO = np.full((rows, self.stacks), -1), np.full((rows, self.operations), -1)
        for number in range(self.operations):
            which_N, stack_words_N = words_NW[:, 3 * number], words_NW[:, 3 * number + 1]
            is_pop_N = (below(which_N, 2) == 1) & (filled.count_N > 0)
            stack_N = np.where(is_pop_N, filled.chosen(stack_words_N), below(stack_words_N, self.stacks))
            top_N = top_NK[row_N, stack_N]
            # Of a push, the operation itself, which stands on what was the top.
            of_N = np.where(is_pop_N, top_N, number)
            under_NO[:, number] = top_N
            top_NK[row_N, stack_N] = after_N = np.where(is_pop_N, under_NO[row_N, top_N], number)
            filled.update(stack_N, was_N=top_N >= 0, is_N=after_N >= 0)
            place = 3 * number
            symbol_N = pushed_NO[row_N, of_N]
            tokens_NL[:, place] = np.where(is_pop_N, POP, PUSH)
            tokens_NL[:, place + 1], tokens_NL[:, place + 2] = OPCODES + stack_N, symbol_N
            targets_NL[:, place + 1] = np.where(is_pop_N, symbol_N, IGNORED)
            is_content_NL[:, place + 2] = ~is_pop_N
        return Examples(tokens_NL, targets_NL, is_content_NL)

    def solve(self, tokens: list[int]) -> dict[int, int]:
        held: dict[int, list[int]] = {}
        found = {}
        for place in range(0, 3 * self.operations, 3):
            what, stack, symbol = tokens[place : place + 3]
            if what == PUSH:
                held.setdefault(stack, []).append(symbol)
            else:
                found[place + 1] = held[stack].pop()
        return found


class _Filled:
    """Which stacks of each row have something, in any order."""

    def __init__(self, rows: int, stacks: int):
        self.count_N = np.zeros(rows, np.int64)
        self._row_N = np.arange(rows)
        self._listed_NK, self._place_NK = np.zeros((rows, stacks), np.int64), np.zeros((rows, stacks), np.int64)

    def chosen(self, words_N: np.ndarray) -> np.ndarray:
        """int64 [N]: a random one of them; any stack where there is none."""
        return self._listed_NK[self._row_N, below_each(words_N, self.count_N)]

    def update(self, stack_N: np.ndarray, was_N: np.ndarray, is_N: np.ndarray) -> None:
        """Each row's stack was filled before or not, and is now or not."""
        added_P = np.flatnonzero(~was_N & is_N)
        self._put(added_P, self.count_N[added_P], stack_N[added_P])
        self.count_N[added_P] += 1
        emptied_P = np.flatnonzero(was_N & ~is_N)
        self.count_N[emptied_P] -= 1
        last_P = self._listed_NK[emptied_P, self.count_N[emptied_P]]
        self._put(emptied_P, self._place_NK[emptied_P, stack_N[emptied_P]], last_P)

    def _put(self, rows_P: np.ndarray, places_P: np.ndarray, stacks_P: np.ndarray) -> None:
        self._listed_NK[rows_P, places_P] = stacks_P
        self._place_NK[rows_P, stacks_P] = places_P


class Variables(SyntheticTask):
    """Multi-hop variable tracking: `<set> a v` gives a variable a value, `<is> b a` makes b what a is; after the
    separator, variables are asked for, and the model has to say each one's value.

    Every definition is three tokens and defines a new variable: of another one, drawn from those before it, where that
    takes at most `hops` steps to a value; else (and always the first) of a random value. Three quarters of the length
    are definitions. Questions are random variables. Tokens: 0 separates, 1 set, 2 is, then variables, then values.
    """

    kind: Literal["variables"] = "variables"
    hops: Annotated[int, Field(ge=0)] = 2
    """Most steps from a variable to a value."""
    variables: Count = 64
    """Different variables that there are; at least those that an example defines."""
    values: Annotated[int, Field(ge=2)] = 64
    """Different values."""

    @model_validator(mode="after")
    def _fits(self):
        if self.definitions < 1:
            raise ValueError(f"length = {self.length} has no definition; it takes at least 8")
        if self.definitions > self.variables:
            raise ValueError(
                f"length = {self.length} has {self.definitions} definitions, more than variables = {self.variables}"
            )
        return self

    @property
    def definitions(self) -> int:
        """Definitions of an example."""
        return self.length // 4

    @property
    def vocab_size(self) -> int:
        return OPCODES + self.variables + self.values

    @property
    def num_questions(self) -> int:
        """Questions of an example."""
        return self.length - 1 - 3 * self.definitions

    @property
    def num_words(self) -> int:
        return 4 * self.definitions + self.num_questions

    @property
    def chance(self) -> float:
        return 1 / self.values

    def draw(self, words_NW: np.ndarray) -> Examples:
        count, rows, row_N = self.definitions, len(words_NW), np.arange(len(words_NW))
        names_words, source_words, value_words, asked_words = np.split(
            words_NW, np.cumsum([2 * count, count, count]), axis=1
        )
        names_ND = OPCODES + distinct(names_words, self.variables, count)
        values_ND = OPCODES + self.variables + below(value_words, self.values)
        hops_ND = np.zeros((rows, count), np.int64)
        tokens_NL = np.full((rows, self.length), SEPARATOR, np.int32)
        targets_NL = np.full_like(tokens_NL, IGNORED)
        is_content_NL = np.zeros(tokens_NL.shape, bool)
        for number in range(count):
            source_N = below(source_words[:, number], max(number, 1))
            is_other_N = (hops_ND[row_N, source_N] < self.hops) & (number > 0)
            hops_ND[:, number] = np.where(is_other_N, hops_ND[row_N, source_N] + 1, 0)
            values_ND[:, number] = np.where(is_other_N, values_ND[row_N, source_N], values_ND[:, number])
            place = 3 * number
            tokens_NL[:, place] = np.where(is_other_N, IS, SET)
            tokens_NL[:, place + 1] = names_ND[:, number]
            tokens_NL[:, place + 2] = np.where(is_other_N, names_ND[row_N, source_N], values_ND[:, number])
            is_content_NL[:, place + 2] = ~is_other_N
        asked_NQ = below(asked_words, count)
        tokens_NL[:, 3 * count + 1 :] = np.take_along_axis(names_ND, asked_NQ, axis=1)
        targets_NL[:, 3 * count + 1 :] = np.take_along_axis(values_ND, asked_NQ, axis=1)
        return Examples(tokens_NL, targets_NL, is_content_NL)

    def solve(self, tokens: list[int]) -> dict[int, int]:
        value_of: dict[int, int] = {}
        context = 3 * self.definitions
        for place in range(0, context, 3):
            what, name, source = tokens[place : place + 3]
            value_of[name] = source if what == SET else value_of[source]
        return {place: value_of[tokens[place]] for place in range(context + 1, len(tokens))}
