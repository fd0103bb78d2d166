"""What absorbing queries and reading heads out of the latent costs."""

from __future__ import annotations


def flops_per_token(*, num_heads: int, latent_dim: int, nope_dim: int, value_dim: int) -> int:
    """Two for each multiply-add of both matrices of each head."""
    return 2 * num_heads * latent_dim * (nope_dim + value_dim)


def expansion_pays(
    start: int, length: int, *, latent_dim: int, nope_dim: int, rope_dim: int, value_dim: int
) -> bool:
    """Whether writing out keys and values of each head takes fewer operations than absorbing, copies allowed for.

    Of one head, with `length` new rows after `start`. Absorbed: every new row meets k_up and v_up, and every pair of
    row and key the latent twice and rope once. Expanded: every key meets k_up and v_up, a pair nope, rope and value.

    >>> [rows for rows in (64, 256, 512) if expansion_pays(4096, rows, latent_dim=512, nope_dim=128, rope_dim=64,
    ...                                                    value_dim=128)]
    [256, 512]
    """
    pairs, own = length * start + length * (length + 1) // 2, latent_dim * (nope_dim + value_dim)
    absorbed = length * own + pairs * (2 * latent_dim + rope_dim)
    expanded = (start + length) * own + pairs * (nope_dim + rope_dim + value_dim)
    return COPIES * expanded < absorbed


COPIES = 1.1
"""What the expanded form takes beside its products, as a factor: keys and values are put into pages."""
