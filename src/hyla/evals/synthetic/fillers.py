"""Tokens that mean nothing, but can be foretold a little."""

from __future__ import annotations

import numpy as np

from hyla.evals.synthetic.words import below


def fillers(words_NF: np.ndarray, count: int) -> np.ndarray:
    """int64 [N, F], 0 to `count` - 1: a Markov chain. From its first number, drawn alike, each next one is one more
    with a chance of 1/2, two more with 1/4 (both modulo `count`), else any, alike. words_NF: a word for each."""
    drawn_NF = below(words_NF, 4 * count)
    which_NF, anything_NF = drawn_NF // count, drawn_NF % count
    steps_NF = np.where(which_NF < 2, 1, np.where(which_NF == 2, 2, anything_NF))
    steps_NF[:, :1] = anything_NF[:, :1]
    return np.cumsum(steps_NF, axis=1) % count
