"""Saying again what was read, forwards and backwards."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from hyla.evals.synthetic.protocol import IGNORED, Examples, SyntheticTask
from hyla.evals.synthetic.words import below

SEPARATOR = 0


class Copy(SyntheticTask):
    """`s <sep> s`: from the separator on, each token of s in turn.

    s are length / 2 random symbols; token 0 separates, symbols are 1 to `symbols`. What was to be said is read next
    (teacher forcing); the last symbol is only said.
    """

    kind: Literal["copy"] = "copy"
    symbols: Annotated[int, Field(ge=2)] = 64
    """Different symbols."""

    @model_validator(mode="after")
    def _fits(self):
        if self.length % 2:
            raise ValueError(f"length = {self.length} must be even: a string, a separator, the string but its end")
        return self

    @property
    def vocab_size(self) -> int:
        return 1 + self.symbols

    @property
    def num_words(self) -> int:
        return self.length // 2

    @property
    def chance(self) -> float:
        return 1 / self.symbols

    def said(self, symbols_NS: np.ndarray) -> np.ndarray:
        """What is to be said of a string, int32 [N, S]."""
        return symbols_NS

    def draw(self, words_NW: np.ndarray) -> Examples:
        half = self.length // 2
        symbols_NS = (1 + below(words_NW, self.symbols)).astype(np.int32)
        said_NS = self.said(symbols_NS)
        tokens_NL = np.full((len(words_NW), self.length), SEPARATOR, np.int32)
        tokens_NL[:, :half], tokens_NL[:, half + 1 :] = symbols_NS, said_NS[:, :-1]
        targets_NL = np.full_like(tokens_NL, IGNORED)
        targets_NL[:, half:] = said_NS
        is_content_NL = np.zeros(tokens_NL.shape, bool)
        is_content_NL[:, :half] = True
        return Examples(tokens_NL, targets_NL, is_content_NL)

    def solve(self, tokens: list[int]) -> dict[int, int]:
        half = tokens.index(SEPARATOR)
        return dict(enumerate(self.said(np.array([tokens[:half]]))[0].tolist(), start=half))


class Palindrome(Copy):
    """`s <sep> reverse(s)`: from the separator on, each token of s from its end (Kimi Linear, arXiv 2510.26692, section
    5.1, which does not say how many symbols it has). Else as `Copy`."""

    kind: Literal["palindrome"] = "palindrome"

    def said(self, symbols_NS: np.ndarray) -> np.ndarray:
        return symbols_NS[:, ::-1]
