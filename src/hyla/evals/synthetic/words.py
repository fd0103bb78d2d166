"""Random words that are the same on every machine and in every version of NumPy."""

from __future__ import annotations

import hashlib

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
COLUMNS = 1 << 20
"""Words that a row has at most; rows do not share any."""


def key_of(*parts: object) -> int:
    """A 64-bit number of what a stream is for."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def mixed(z: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea and Flood, 2014), elementwise; uint64 of any shape, overwritten."""
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def words(key: int, rows_N: np.ndarray, columns: int) -> np.ndarray:
    """uint64 [N, columns]: word c of row r is a function of (key, r, c) alone (SplitMix64 as a counter).

    rows_N: int64, each from 0 to 2^43. columns: at most 2^20.
    """
    counter_NC = rows_N.astype(np.uint64)[:, None] * np.uint64(COLUMNS) + np.arange(1, columns + 1, dtype=np.uint64)
    counter_NC *= GOLDEN
    counter_NC += np.uint64(key)
    return mixed(counter_NC)


def below(words: np.ndarray, count: int) -> np.ndarray:
    """Words as int64 from 0 to count - 1, each as likely as the next within count / 2^32. count: at most 2^31."""
    return ((words >> np.uint64(32)) * np.uint64(count) >> np.uint64(32)).astype(np.int64)


def below_each(words_N: np.ndarray, count_N: np.ndarray) -> np.ndarray:
    """int64 [N]: as `below`, with a count of each word's own, 0 to 2^31; 0 where that is 0."""
    return ((words_N >> np.uint64(32)) * count_N.astype(np.uint64) >> np.uint64(32)).astype(np.int64)


def distinct(words_NC: np.ndarray, count: int, chosen: int) -> np.ndarray:
    """int64 [N, chosen]: numbers below `count`, none twice in a row, in random order; Floyd's sample, then a shuffle.

    words_NC: 2 * chosen words a row.
    """
    rows = words_NC.shape[0]
    found_NK = np.empty((rows, chosen), dtype=np.int64)
    for place in range(chosen):
        top = count - chosen + place
        drawn_N = below(words_NC[:, place], top + 1)
        is_there_N = (found_NK[:, :place] == drawn_N[:, None]).any(axis=1)
        found_NK[:, place] = np.where(is_there_N, top, drawn_N)
    order_NK = np.argsort(words_NC[:, chosen : 2 * chosen], axis=1, kind="stable")
    return np.take_along_axis(found_NK, order_NK, axis=1)
