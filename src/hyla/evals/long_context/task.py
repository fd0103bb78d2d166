"""What a kind of long context is: how its prompt is written for a size, and what the answer must have."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Question:
    """A prompt and what has to stand in the answer.

    depth: where in the context the first thing that is asked for stands, 0 (its beginning) to 1; None: everywhere.
    """

    prompt: str
    answers: tuple[str, ...]
    depth: float | None


class Kind(Protocol):
    """A kind of long context."""

    @property
    def name(self) -> str:
        """As lm-evaluation-harness calls it."""
        ...

    @property
    def max_tokens(self) -> int:
        """Most tokens of an answer."""
        ...

    def step(self, length: int) -> int:
        """Units by which a context of so many tokens is made longer or shorter."""
        ...

    @property
    def least(self) -> int:
        """Fewest units that a context can have."""
        ...

    def most(self, source: Source) -> int | None:
        """Most units that there are; None: no limit."""
        ...

    def ask(self, units: int, length: int, source: Source, draw: random.Random) -> Question:
        """A question about a context of so many units. length: the tokens that are aimed at."""
        ...


@dataclass(frozen=True)
class Source:
    """What contexts are made of.

    essay: words of running text, for haystacks.
    words: different words, in any fixed order, for lists.
    keys:  different words that needles are called by.
    """

    essay: Sequence[str]
    words: Sequence[str]
    keys: Sequence[str]


def share_right(answer: str, wanted: Sequence[str]) -> float:
    """The share of wanted texts that stand in an answer, in whatever case (lm-evaluation-harness: string_match_all)."""
    said = answer.strip().lower()
    return sum(text.lower() in said for text in wanted) / len(wanted)
