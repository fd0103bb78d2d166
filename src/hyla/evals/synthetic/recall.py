"""Multi-query associative recall: which value stood behind this key?"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from hyla.evals.synthetic.protocol import IGNORED, Examples, SyntheticTask
from hyla.evals.synthetic.words import below, distinct
from hyla.models.config import Count

SEPARATOR = 0


class MQAR(SyntheticTask):
    """Zoology's multi-query associative recall (arXiv 2312.04927; HazyResearch/zoology, `multiquery_ar`).

    `pairs` different keys, each followed by a value, fill the first 2 * pairs tokens. Keys are 1 to vocab / 2 - 1,
    values vocab / 2 to vocab - 1; no value stands twice. Of the (length - 2 * pairs) / 2 pairs of places behind them,
    each key gets one: places are drawn one after the other without replacement, place i (from 1) with a weight of
    i^(power - 1), so most questions come soon. The key stands at its first token, and there the model has to say the
    value. All other tokens are random ones of the whole vocabulary.
    """

    kind: Literal["mqar"] = "mqar"
    pairs: Count = 4
    """Keys that are asked for, once each."""
    vocab: Annotated[int, Field(ge=8, le=1 << 30)] = 8192
    """Tokens; even."""
    power: Annotated[float, Field(gt=0, le=1)] = 0.01
    """1: questions come anywhere alike."""

    @model_validator(mode="after")
    def _fits(self):
        if self.length % 2 or self.vocab % 2:
            raise ValueError(f"length = {self.length} and vocab = {self.vocab} must be even")
        if 4 * self.pairs > self.length:
            raise ValueError(f"{self.pairs} pairs and their questions need {4 * self.pairs} tokens, not {self.length}")
        if self.pairs > self.vocab // 2 - 1:
            raise ValueError(f"vocab = {self.vocab} has {self.vocab // 2 - 1} keys, fewer than {self.pairs} pairs")
        return self

    @property
    def vocab_size(self) -> int:
        return self.vocab

    @property
    def num_places(self) -> int:
        """Places for questions."""
        return self.length // 2 - self.pairs

    @property
    def num_words(self) -> int:
        return 4 * self.pairs + self.num_places + self.length

    @property
    def chance(self) -> float:
        return 1 / (self.vocab - self.vocab // 2)

    def draw(self, words_NW: np.ndarray) -> Examples:
        pairs, half, rows = self.pairs, self.vocab // 2, len(words_NW)
        keys_words, values_words, places_words, filler_words = np.split(
            words_NW, np.cumsum([2 * pairs, 2 * pairs, self.num_places]), axis=1
        )
        keys_NK = 1 + distinct(keys_words, half - 1, pairs)
        values_NK = half + distinct(values_words, half, pairs)
        tokens_NL = below(filler_words, self.vocab).astype(np.int32)
        tokens_NL[:, 0 : 2 * pairs : 2], tokens_NL[:, 1 : 2 * pairs : 2] = keys_NK, values_NK
        asked_NK = 2 * pairs + 2 * self._places(places_words)
        targets_NL = np.full((rows, self.length), IGNORED, np.int32)
        np.put_along_axis(tokens_NL, asked_NK, keys_NK.astype(np.int32), axis=1)
        np.put_along_axis(targets_NL, asked_NK, values_NK.astype(np.int32), axis=1)
        is_content_NL = np.zeros((rows, self.length), bool)
        is_content_NL[:, 1 : 2 * pairs : 2] = True
        return Examples(tokens_NL, targets_NL, is_content_NL)

    def _places(self, words_NP: np.ndarray) -> np.ndarray:
        """int64 [N, pairs]: places without replacement, by weight: those with the smallest exponential times
        (Efraimidis and Spirakis, 2006)."""
        uniform_NP = ((words_NP >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        weight_P = np.arange(1, self.num_places + 1, dtype=np.float64) ** (self.power - 1)
        times_NP = -np.log(uniform_NP) / weight_P
        return np.argsort(times_NP, axis=1, kind="stable")[:, : self.pairs]

    def solve(self, tokens: list[int]) -> dict[int, int]:
        context = 2 * self.pairs
        value_of = dict(zip(tokens[0:context:2], tokens[1:context:2]))
        return {place: value_of[key] for place, key in enumerate(tokens) if place >= context and key in value_of}


class _Pairs(SyntheticTask):
    """`k v k v ... <sep> q q ...`: pairs of a third of the length each, the separator, then keys whose values are asked
    for. Token 0 separates; keys are 1 to `keys`, values come after them. Of a key that stands twice the last value
    counts."""

    keys: Count
    """Different keys."""
    values: Annotated[int, Field(ge=2)]
    """Different values."""

    @property
    def pairs(self) -> int:
        """Pairs of an example."""
        return (self.length - 1) // 3

    @property
    def num_questions(self) -> int:
        """Questions of an example."""
        return self.length - 1 - 2 * self.pairs

    @property
    def vocab_size(self) -> int:
        return 1 + self.keys + self.values

    @property
    def chance(self) -> float:
        return 1 / self.values

    def examples_of(
        self, keys_NP: np.ndarray, values_NP: np.ndarray, asked_NQ: np.ndarray, answers_NQ: np.ndarray
    ) -> Examples:
        """Pairs [N, P], questions and their answers [N, Q], put in order."""
        context = 2 * self.pairs
        tokens_NL = np.full((len(keys_NP), self.length), SEPARATOR, np.int32)
        tokens_NL[:, 0:context:2], tokens_NL[:, 1:context:2] = keys_NP, values_NP
        tokens_NL[:, context + 1 :] = asked_NQ
        targets_NL = np.full_like(tokens_NL, IGNORED)
        targets_NL[:, context + 1 :] = answers_NQ
        is_content_NL = np.zeros(tokens_NL.shape, bool)
        is_content_NL[:, 1:context:2] = True
        return Examples(tokens_NL, targets_NL, is_content_NL)

    def solve(self, tokens: list[int]) -> dict[int, int]:
        context = tokens.index(SEPARATOR)
        value_of = dict(zip(tokens[0:context:2], tokens[1:context:2]))
        return {place: value_of[tokens[place]] for place in range(context + 1, len(tokens))}


class Recall(_Pairs):
    """Associative recall as in Kimi Linear (arXiv 2510.26692, section 5.1): `k v k v ... <sep> q q ...`.

    A third of the length are different keys, each followed by a value, then the separator, then questions: keys, drawn
    anew each time, at each of which the model has to say the value. Token 0 separates; keys are 1 to keys, values come
    after them. The report gives neither the number of pairs nor of tokens: `keys` and `values` are ours.
    """

    kind: Literal["recall"] = "recall"
    keys: Count = 1024
    """Different keys that there are; at least the pairs of an example."""
    values: Annotated[int, Field(ge=2)] = 1024
    """Different values."""

    @model_validator(mode="after")
    def _fits(self):
        if self.pairs > self.keys:
            raise ValueError(f"length = {self.length} has {self.pairs} pairs, more than keys = {self.keys}")
        return self

    @property
    def num_words(self) -> int:
        return 3 * self.pairs + self.num_questions

    def draw(self, words_NW: np.ndarray) -> Examples:
        pairs = self.pairs
        keys_words, values_words, asked_words = np.split(words_NW, np.cumsum([2 * pairs, pairs]), axis=1)
        keys_NP = 1 + distinct(keys_words, self.keys, pairs)
        values_NP = 1 + self.keys + below(values_words, self.values)
        asked_NQ = below(asked_words, pairs)
        asked, answers = (np.take_along_axis(of_NP, asked_NQ, axis=1) for of_NP in (keys_NP, values_NP))
        return self.examples_of(keys_NP, values_NP, asked, answers)


class Overwrite(_Pairs):
    """Key overwrite: `k v k v ... <sep> q q ...`, where keys come again and the last value counts.

    Two thirds of the length are writes of a random one of `keys` keys and a random value; every question is the key of
    a random write. Tokens as in `Recall`.
    """

    kind: Literal["overwrite"] = "overwrite"
    keys: Count = 8
    """Different keys; the fewer, the more often one is overwritten."""
    values: Annotated[int, Field(ge=2)] = 64
    """Different values."""

    @property
    def num_words(self) -> int:
        return self.length - 1

    def draw(self, words_NW: np.ndarray) -> Examples:
        pairs = self.pairs
        keys_words, values_words, asked_words = np.split(words_NW, [pairs, 2 * pairs], axis=1)
        keys_NP, values_NP = 1 + below(keys_words, self.keys), 1 + self.keys + below(values_words, self.values)
        asked_NQ = np.take_along_axis(keys_NP, below(asked_words, pairs), axis=1)
        last_NK = np.zeros((len(words_NW), 1 + self.keys), np.int64)
        for pair in range(pairs):
            np.put_along_axis(last_NK, keys_NP[:, pair : pair + 1], values_NP[:, pair : pair + 1], axis=1)
        return self.examples_of(keys_NP, values_NP, asked_NQ, np.take_along_axis(last_NK, asked_NQ, axis=1))
