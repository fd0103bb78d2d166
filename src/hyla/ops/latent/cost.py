"""What absorbing queries and reading heads out of the latent costs."""

from __future__ import annotations


def flops_per_token(*, num_heads: int, latent_dim: int, nope_dim: int, value_dim: int) -> int:
    """Two for each multiply-add of both matrices of each head."""
    return 2 * num_heads * latent_dim * (nope_dim + value_dim)


LEAST_ROWS = 256
"""New rows of a sequence from which on its keys and values may be written out. Below, what does not grow with them
counts: k_up and v_up are made plain, pages are made (measured on one core, docs/benchmarks.md)."""

COPIES = 1.25
"""What the expanded form takes, as a multiple of its products: keys and values are put into pages."""


def expansion_pays(start: int, length: int, *, latent_dim: int, nope_dim: int, rope_dim: int, value_dim: int) -> bool:
    """Whether to write out keys and values of each head for `length` new rows after `start`.

    Multiply-adds of one head. Absorbed: a new row meets k_up and v_up, a pair of row and key the latent twice and rope
    once. Expanded: every key meets k_up and v_up, a pair nope, rope and value.

    >>> def rows_that_pay(start, **dims):
    ...     return [rows for rows in (255, 256, 320, 1024) if expansion_pays(start, rows, **dims)]
    >>> rows_that_pay(1 << 15, latent_dim=512, nope_dim=128, rope_dim=64, value_dim=128)
    [256, 320, 1024]
    >>> rows_that_pay(1 << 15, latent_dim=512, nope_dim=192, rope_dim=64, value_dim=256)
    [1024]
    """
    pairs, own = length * start + length * (length + 1) // 2, latent_dim * (nope_dim + value_dim)
    absorbed = length * own + pairs * (2 * latent_dim + rope_dim)
    expanded = (start + length) * own + pairs * (nope_dim + rope_dim + value_dim)
    return length >= LEAST_ROWS and COPIES * expanded < absorbed
