"""What causal softmax attention costs. A multiply-add counts as two operations."""

from __future__ import annotations

from hyla.grid import PAGE


def flops(start: int, length: int, num_heads: int, key_dim: int, value_dim: int, window: int | None = None) -> int:
    """Scores and weighted values of `length` new rows after `start` earlier ones; the softmax itself is not counted.

    Row t meets min(t + 1, window) keys with 2 K operations for the score and 2 V for the value, per query head.
    """
    pairs = _pairs(start + length, window) - _pairs(start, window)
    return 2 * pairs * num_heads * (key_dim + value_dim)


def _pairs(length: int, window: int | None) -> int:
    """Keys met by rows 0 to length - 1: the first `window` rows see all, the later ones `window` each."""
    short = length if window is None else min(length, window)
    return short * (short + 1) // 2 + (length - short) * (window or 0)


def cache_bytes_per_token(num_kv_heads: int, key_dim: int, value_dim: int, bytes_per_element: int) -> int:
    """A key and a value per key head; value_dim 0: the values are channels of the keys (MLA)."""
    return num_kv_heads * (key_dim + value_dim) * bytes_per_element


def decode_bytes(
    context: int, num_kv_heads: int, key_dim: int, value_dim: int, bytes_per_element: int, window: int | None = None
) -> int:
    """Read every page that the last of `context` tokens sees once, write one row."""
    first = 0 if window is None else max(0, context - window) // PAGE
    tokens = (-(-context // PAGE) - first) * PAGE + 1
    return tokens * cache_bytes_per_token(num_kv_heads, key_dim, value_dim, bytes_per_element)


def scratch_bytes(length: int, num_kv_heads: int, key_dim: int, value_dim: int, bytes_per_element: int) -> int:
    """Pages of a whole sequence without a cache, and the null page."""
    tokens = (-(-length // PAGE) + 1) * PAGE
    return tokens * cache_bytes_per_token(num_kv_heads, key_dim, value_dim, bytes_per_element)


LOOK_BACK = 8
"""Rows before the cursor that layers beside the trunk may compute again (`models.mtp.earlier`)."""


def num_window_pages(window: int, num_new: int) -> int:
    """Most pages that one sequence holds for a window while `num_new` rows are written.

    >>> num_window_pages(128, 1), num_window_pages(129, 64)
    (5, 5)
    """
    return -(-(window - 1 + LOOK_BACK) // PAGE) + 1 + -(-num_new // PAGE)
