"""What sparse attention costs. A multiply-add counts as two operations."""

from __future__ import annotations

from hyla.grid import PAGE


def _pairs(start: int, length: int, most: int | None = None) -> int:
    """Sum of min(t + 1, most) over `length` rows after `start` earlier ones."""

    def before(end: int) -> int:
        short = end if most is None else min(end, most)
        return short * (short + 1) // 2 + (end - short) * (most or 0)

    return before(start + length) - before(start)


def index_flops(start: int, length: int, num_heads: int, index_dim: int) -> int:
    """Index scores of `length` new rows after `start` earlier ones: a product, a weight and a sum per head and key."""
    return _pairs(start, length) * num_heads * (2 * index_dim + 2)


def attention_flops(start: int, length: int, num_heads: int, key_dim: int, value_dim: int, num_selected: int) -> int:
    """Scores and weighted values over the selected keys."""
    return 2 * _pairs(start, length, num_selected) * num_heads * (key_dim + value_dim)


def cache_bytes_per_token(index_dim: int, key_dim: int, bytes_per_element: int) -> int:
    """Cache bytes of a token: one index key and one key, whose first channels are the value."""
    return (index_dim + key_dim) * bytes_per_element


def decode_bytes(context: int, index_dim: int, key_dim: int, num_selected: int, bytes_per_element: int) -> int:
    """Read every page of index keys once and the selected keys, write one row of each."""
    index_tokens = -(-context // PAGE) * PAGE
    read = index_tokens * index_dim + min(context, num_selected) * key_dim
    return (read + index_dim + key_dim) * bytes_per_element


def selection_bytes(length: int, end: int, num_selected: int) -> int:
    """The selection of `length` rows of a sequence that reaches `end`: 4 bytes a place, in blocks of 64."""
    return 4 * length * -(-min(end, num_selected) // PAGE) * PAGE
