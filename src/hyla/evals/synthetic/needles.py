"""Needles in a haystack: a few facts among many tokens that mean nothing."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from hyla.evals.synthetic.fillers import fillers
from hyla.evals.synthetic.protocol import IGNORED, Examples, SyntheticTask
from hyla.evals.synthetic.words import below, distinct
from hyla.models.config import Count

SEPARATOR, NEEDLE = 0, 1
OPCODES = 2
NEEDLE_TOKENS = 3


class Needle(SyntheticTask):
    """`f f <needle> k v f f f <needle> k v f ... <sep> q q`: needles in a haystack of fillers, then some keys, at each
    of which the model has to say the value.

    A needle is three tokens: the marker, a key, a value. Keys of an example differ, values are drawn anew for each.
    Which of the haystack's units (a filler or a needle) are needles is drawn without replacement, so each stands at
    any depth alike. The fillers, read without the needles, are a Markov chain (`fillers`): one more than the last with
    a chance of 1/2, two more with 1/4, else any. Behind the separator stand `questions` different ones of the keys, in
    random order. Tokens: 0 separates, 1 marks a needle, then keys, values, fillers. The form is ours; what it is about
    is RULER's (arXiv 2404.06654).
    """

    kind: Literal["needle"] = "needle"
    needles: Count = 4
    """Key-value pairs of an example."""
    keys: Count = 32
    """Different keys that there are; at least `needles`."""
    values: Annotated[int, Field(ge=2)] = 32
    """Different values."""
    fillers: Annotated[int, Field(ge=2, lt=1 << 28)] = 32
    """Different fillers."""
    questions: Count = 2
    """Keys that are asked for; at most `needles`."""

    @model_validator(mode="after")
    def _fits(self):
        if self.needles > self.keys:
            raise ValueError(f"needles = {self.needles} are more than keys = {self.keys}")
        if self.questions > self.needles:
            raise ValueError(f"questions = {self.questions} are more than needles = {self.needles}")
        if self.num_fillers < 1:
            raise ValueError(f"length = {self.length} has no room for a filler; it takes {self.least_length} or more")
        return self

    @property
    def least_length(self) -> int:
        """Tokens of the needles, a filler, the separator and the questions."""
        return NEEDLE_TOKENS * self.needles + 2 + self.questions

    @property
    def num_fillers(self) -> int:
        """Fillers of an example."""
        return 1 + self.length - self.least_length

    @property
    def vocab_size(self) -> int:
        return OPCODES + self.keys + self.values + self.fillers

    @property
    def num_words(self) -> int:
        return 5 * self.needles + 2 * self.questions + self.num_fillers

    @property
    def chance(self) -> float:
        return 1 / self.values

    def draw(self, words_NW: np.ndarray) -> Examples:
        rows, count, end = len(words_NW), self.needles, self.length - self.questions
        keys_words, values_words, places_words, asked_words, filler_words = np.split(
            words_NW, np.cumsum([2 * count, count, 2 * count, 2 * self.questions]), axis=1
        )
        keys_NK = OPCODES + distinct(keys_words, self.keys, count)
        values_NK = OPCODES + self.keys + below(values_words, self.values)
        units_NK = np.sort(distinct(places_words, self.num_fillers + count, count), axis=1)
        # Each needle before it takes two tokens more than its unit.
        places_NK = units_NK + (NEEDLE_TOKENS - 1) * np.arange(count)
        is_filler_NL = np.zeros((rows, self.length), bool)
        is_filler_NL[:, : end - 1] = True
        tokens_NL = np.full((rows, self.length), SEPARATOR, np.int32)
        for offset, said in enumerate((np.int64(NEEDLE), keys_NK, values_NK)):
            np.put_along_axis(tokens_NL, places_NK + offset, said, axis=1)
            np.put_along_axis(is_filler_NL, places_NK + offset, False, axis=1)
        tokens_NL[is_filler_NL] = (OPCODES + self.keys + self.values + fillers(filler_words, self.fillers)).ravel()
        asked_NQ = distinct(asked_words, count, self.questions)
        targets_NL = np.full_like(tokens_NL, IGNORED)
        tokens_NL[:, end:] = np.take_along_axis(keys_NK, asked_NQ, axis=1)
        targets_NL[:, end:] = np.take_along_axis(values_NK, asked_NQ, axis=1)
        is_content_NL = np.zeros(tokens_NL.shape, bool)
        np.put_along_axis(is_content_NL, places_NK + 2, True, axis=1)
        return Examples(tokens_NL, targets_NL, is_content_NL)

    def solve(self, tokens: list[int]) -> dict[int, int]:
        context = tokens.index(SEPARATOR)
        needles = [place for place in range(context) if tokens[place] == NEEDLE]
        value_of = {tokens[place + 1]: tokens[place + 2] for place in needles}
        return {place: value_of[tokens[place]] for place in range(context + 1, len(tokens))}
