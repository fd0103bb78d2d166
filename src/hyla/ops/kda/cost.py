"""Multiply-adds and bytes of Kimi Delta Attention. One multiply-add is two FLOPs; formulas import no torch."""

from __future__ import annotations

from hyla.grid import BLOCK, CHUNK


def flops_per_token(*, num_heads: int, key_dim: int, value_dim: int) -> int:
    """FLOPs of one token inside a long sequence, forward, all heads: the products of the chunk form, exactly.

    Key and query against the earlier blocks' keys (on average 24 rows), the anchor read twice (2 K V), A and P meet u,
    T, and the fold (K V), as for the gated delta rule; and the row's own block (`own_block_flops_per_token`).
    """
    dots = 2 * ((CHUNK - BLOCK) // 2) * key_dim
    solved = 2 * (CHUNK - BLOCK) * value_dim + 2 * BLOCK * value_dim + (BLOCK - 1) * BLOCK
    products = 2 * num_heads * (dots + 3 * key_dim * value_dim + solved)
    return products + own_block_flops_per_token(num_heads=num_heads, key_dim=key_dim)


def own_block_flops_per_token(*, num_heads: int, key_dim: int) -> int:
    """FLOPs of a row with the earlier rows of its block, on average 7.5, and with itself; exponentials apart.

    A decay per channel leaves no matrix product: a pair's key is decayed (K products), meets the row's key and query
    (2 K multiply-adds); the row's own key meets its query.
    """
    pairs = BLOCK * (BLOCK - 1) // 2
    return num_heads * key_dim * (5 * pairs + 2 * BLOCK) // BLOCK


def recurrent_flops_per_token(*, num_heads: int, key_dim: int, value_dim: int) -> int:
    """FLOPs of one token in the recurrent form: read, write and query the state."""
    return 2 * num_heads * 3 * key_dim * value_dim


def state_bytes(*, num_heads: int, key_dim: int, value_dim: int) -> int:
    """fp32 state as published models count it: the anchor alone."""
    return 4 * num_heads * key_dim * value_dim


def open_bytes(*, num_heads: int, key_dim: int, value_dim: int) -> int:
    """Rows of the open chunk beside the anchor: fp32 rows and float64 block sums."""
    rows = CHUNK * value_dim + CHUNK * key_dim + BLOCK * value_dim + BLOCK * BLOCK + 2 * BLOCK * key_dim
    return num_heads * (4 * rows + 8 * (CHUNK // BLOCK) * key_dim)


def decode_bytes_per_token(*, num_heads: int, key_dim: int, value_dim: int) -> int:
    """Cache bytes that one decoded token reads (anchor and open rows) and writes (its own rows; 1/64 of a fold)."""
    sizes = {"num_heads": num_heads, "key_dim": key_dim, "value_dim": value_dim}
    written = 4 * num_heads * (2 * value_dim + BLOCK + 2 * key_dim)
    return state_bytes(**sizes) + open_bytes(**sizes) + written + state_bytes(**sizes) // CHUNK
