"""What a synthetic task is, and which of its examples a split has."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from hyla.errors import ConfigError
from hyla.evals.synthetic.words import key_of, mixed, words
from hyla.models.config import Config

Split = Literal["train", "test"]
Length = Annotated[int, Field(ge=4, le=1 << 20)]

TEST_SHARE = 8
"""One example in so many belongs to the test split, by its tokens."""
MOST_ATTEMPTS = 1000
IGNORED = -1
"""The target of a position that asks nothing."""


@dataclass(frozen=True)
class Examples:
    """Some examples of one length.

    tokens_NL:  int32, what a model reads.
    targets_NL: int32, what it has to say at a position, having read up to it; -1 where nothing is asked.
    is_content_NL: bool, where the tokens stand that the answers are made of.
    """

    tokens_NL: np.ndarray
    targets_NL: np.ndarray
    is_content_NL: np.ndarray


class SyntheticTask(Config):
    """A task whose examples are functions of random words, and whose answers follow from what was read."""

    kind: str
    length: Length
    """Tokens of an example."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Token ids are below it."""

    @property
    @abstractmethod
    def num_words(self) -> int:
        """Random words of an example."""

    @property
    @abstractmethod
    def chance(self) -> float:
        """Share of answers that are right when what the answers are made of was exchanged for other tokens."""

    @abstractmethod
    def draw(self, words_NW: np.ndarray) -> Examples:
        """Examples of random words, uint64 [N, num_words]."""

    @abstractmethod
    def solve(self, tokens: list[int]) -> dict[int, int]:
        """The oracle: the answer at each position that asks for one, from the tokens up to it alone."""


def examples(task: SyntheticTask, split: Split, seed: int, first: int, count: int) -> Examples:
    """Examples `first` to `first + count - 1` of a split: a function of the task, the split, the seed and the number.

    No example of one split is one of the other, whatever their seeds: which split it belongs to is said by its tokens,
    and an example of the other split is drawn anew. Raises ConfigError where the task has too few examples for that.
    """
    numbers_N = np.arange(first, first + count)
    shape = (count, task.length)
    found = Examples(np.empty(shape, np.int32), np.empty(shape, np.int32), np.empty(shape, bool))
    pending_P = np.arange(count)
    for attempt in range(MOST_ATTEMPTS):
        key = key_of(task.kind, split, seed, attempt)
        drawn = task.draw(words(key, numbers_N[pending_P], task.num_words))
        is_right_P = is_test(drawn.tokens_NL) == (split == "test")
        for name in ("tokens_NL", "targets_NL", "is_content_NL"):
            getattr(found, name)[pending_P[is_right_P]] = getattr(drawn, name)[is_right_P]
        pending_P = pending_P[~is_right_P]
        if not len(pending_P):
            return found
    raise ConfigError(f"{task.kind} of length {task.length} has too few examples for a {split} split; make it longer")


def is_test(tokens_NL: np.ndarray) -> np.ndarray:
    """bool [N]: whether an example belongs to the test split, one in eight by a hash of its tokens and length."""
    length = tokens_NL.shape[1]
    place_L = mixed(np.arange(1, length + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    sums_N = (tokens_NL.astype(np.uint64) * (place_L | np.uint64(1))).sum(axis=1, dtype=np.uint64)
    return mixed(sums_N + np.uint64(length)) % np.uint64(TEST_SHARE) == 0


def with_other_content(found: Examples, seed: int) -> Examples:
    """The same questions after a context whose content tokens were permuted over all examples: who solves these has
    not read the context."""
    tokens_NL = found.tokens_NL.copy()
    content = tokens_NL[found.is_content_NL]
    order = np.argsort(words(key_of("other content", seed), np.arange(len(content)), 1)[:, 0], kind="stable")
    tokens_NL[found.is_content_NL] = content[order]
    return Examples(tokens_NL, found.targets_NL, found.is_content_NL)
