"""Penalties for tokens that a text already has, on one row of logits."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import numpy as np

from hyla.engine.requests.params import SamplingParams


class TokenCounts:
    """How often each token occurs, kept so that its arrays are there without work."""

    def __init__(self, tokens: Iterable[int] = ()):
        self._places: dict[int, int] = {}
        self._ids, self._counts = array("q"), array("q")
        for token in tokens:
            self.add(token)

    def add(self, token: int) -> None:
        place = self._places.setdefault(token, len(self._ids))
        if place == len(self._ids):
            self._ids.append(token)
            self._counts.append(0)
        self._counts[place] += 1

    # An array cannot grow while somebody looks at its memory, so both are copies.

    @property
    def ids(self) -> np.ndarray:
        """int64, each id once, in the order of their first occurrence."""
        return np.array(self._ids, dtype=np.int64)

    @property
    def counts(self) -> np.ndarray:
        """int64, of `ids`."""
        return np.array(self._counts, dtype=np.int64)


class Penalties:
    """The three penalties of one choice.

    Repetition (Keskar et al., arXiv 1909.05858, section 4.1, in the usual form for logits): a logit of a token of the
    prompt or the answer is divided by it where it is positive and multiplied where it is not. Frequency and presence
    (OpenAI): frequency x occurrences + presence is taken off the logit of each token of the answer.
    """

    def __init__(self, params: SamplingParams, prompt: Iterable[int]):
        self._repetition = params.repetition_penalty
        self._frequency, self._presence = params.frequency_penalty, params.presence_penalty
        self._seen = TokenCounts(prompt if self._repetition != 1.0 else ())
        self._output = TokenCounts()
        self.is_none = self._repetition == 1.0 and self._frequency == self._presence == 0.0

    def advance(self, token: int) -> None:
        if not self.is_none:
            self._seen.add(token)
            self._output.add(token)

    def apply(self, row_V: np.ndarray) -> None:
        """Change a float64 row in place."""
        if self._repetition != 1.0:
            ids = self._seen.ids
            values = row_V[ids]
            row_V[ids] = np.where(values > 0.0, values / self._repetition, values * self._repetition)
        if self._frequency != 0.0 or self._presence != 0.0:
            row_V[self._output.ids] -= self._frequency * self._output.counts + self._presence
