"""Sampling noise that is a pure function of (seed, choice, position): who else is in the batch cannot change it.

The generator is Philox-4x64-10 (Salmon et al., SC 2011) with key (seed, choice) and counter (0, position, purpose,
depth) upwards, so that 2^64 blocks of four words belong to a purpose at a position: word n is token n's, whether or not
other words are made. The words are turned into numbers here, not by numpy's distributions, which may change between
versions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

BITS = 52
"""Bits of a word that become a number; with one more, the half that is added could round the largest up to 1."""
SHIFT, SCALE = np.uint64(64 - BITS), 2.0**-BITS
WORDS_PER_BLOCK = 4
CHOOSING, DRAFTING, ACCEPTING, REPLACING = range(4)
"""Purposes: a token of the target; a sampled draft; whether it is accepted; the token in place of a rejected one."""
FEW = 24
"""So many words are made one block at a time; for more it is faster to make all up to the last."""


class NoiseKey(NamedTuple):
    """Names the noise of one token."""

    seed: int
    choice: int
    position: int
    purpose: int = CHOOSING
    depth: int = 0
    """How many drafts come before a draft. One that is drafted again, after fewer, is a new sample."""


def _philox(key: NoiseKey, block: int) -> np.random.Philox:
    # Whole numbers of 64 bits: numpy reads a list of small and large ones as floating-point numbers.
    words = np.array([key.seed, key.choice, block, key.position, key.purpose, key.depth], dtype=np.uint64)
    return np.random.Philox(key=words[:2], counter=words[2:])


def first_words(key: NoiseKey, count: int) -> np.ndarray:
    """uint64 [count]: the words of ids 0 to count - 1."""
    return _philox(key, 0).random_raw(count)


def words_of_keys(keys: Sequence[NoiseKey], count: int) -> np.ndarray:
    """uint64 [keys, count]: `first_words` of each."""
    words = np.empty((len(keys), count), dtype=np.uint64)
    generator = _philox(NoiseKey(0, 0, 0), 0)
    state = generator.state  # one generator that is set anew: making one costs more than a thousand words
    for row, key in zip(words, keys):
        state["state"]["key"][:] = np.array([key.seed, key.choice], dtype=np.uint64)
        state["state"]["counter"][:] = 0, key.position, key.purpose, key.depth
        generator.state = state
        row[:] = generator.random_raw(count)
    return words


def words_of(key: NoiseKey, ids: np.ndarray) -> np.ndarray:
    """uint64: the words of these ids, which ascend."""
    if len(ids) > FEW:
        return first_words(key, int(ids[-1]) + 1)[ids]
    words = (_philox(key, n // WORDS_PER_BLOCK).random_raw(WORDS_PER_BLOCK)[n % WORDS_PER_BLOCK] for n in ids.tolist())
    return np.fromiter(words, dtype=np.uint64, count=len(ids))


def uniform(words: np.ndarray) -> np.ndarray:
    """Words as float64 numbers in the open interval (0, 1)."""
    return ((words >> SHIFT).astype(np.float64) + 0.5) * SCALE


def gumbel(words: np.ndarray) -> np.ndarray:
    """Words as float64 standard Gumbel numbers: argmax(log p + noise) is a sample of p."""
    return -np.log(-np.log(uniform(words)))


def gumbel_of(word: int) -> float:
    """One word's Gumbel number by scalar functions, which do not depend on where a number stands in an array."""
    return -math.log(-math.log(((word >> int(SHIFT)) + 0.5) * SCALE))
