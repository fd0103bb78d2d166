"""The absolute grid of positions that everything stands on. Imports nothing, so that costs and configs can use it."""

CHUNK = 64
"""Tokens of one chunk of a linear mixer. A constant of Hyla: changing it changes every result's bits."""

PAGE = CHUNK
"""Tokens of one KV page and of one key block: chunks, pages, prefix nodes and snapshots share one grid."""

BLOCK = 16
"""Rows of one sub-chunk of the delta rules' triangular solve, on the same grid."""


def num_pages_for(num_tokens: int) -> int:
    """Pages that hold this many tokens.

    >>> num_pages_for(0), num_pages_for(64), num_pages_for(65)
    (0, 1, 2)
    """
    return -(-num_tokens // PAGE)
