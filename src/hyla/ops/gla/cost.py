"""Multiply-adds and bytes of gated linear attention. One multiply-add is two FLOPs; formulas import no torch."""

from __future__ import annotations

from hyla.grid import BLOCK, CHUNK


def flops_per_token(*, num_heads: int, key_dim: int, value_dim: int) -> int:
    """FLOPs of one token inside a long sequence, forward, all heads: the products of the chunk form, exactly.

    The query against the earlier blocks' keys (on average 24 rows), P against 64 values (C V), the query reads the
    anchor (K V), the fold (K V); and the row's own block (`own_block_flops_per_token`).
    """
    products = (CHUNK - BLOCK) // 2 * key_dim + CHUNK * value_dim + 2 * key_dim * value_dim
    return 2 * num_heads * products + own_block_flops_per_token(num_heads=num_heads, key_dim=key_dim)


def own_block_flops_per_token(*, num_heads: int, key_dim: int) -> int:
    """FLOPs of a row with the earlier rows of its block, on average 7.5, and with itself; exponentials apart.

    A decay per channel leaves no matrix product: a pair's key is decayed (K products) and meets the row's query (K
    multiply-adds); the row's own key meets its query.
    """
    pairs = BLOCK * (BLOCK - 1) // 2
    return num_heads * key_dim * (3 * pairs + 2 * BLOCK) // BLOCK


def recurrent_flops_per_token(*, num_heads: int, key_dim: int, value_dim: int) -> int:
    """FLOPs of one token in the recurrent form: write and query the state."""
    return 2 * num_heads * 2 * key_dim * value_dim


def state_bytes(*, num_heads: int, key_dim: int, value_dim: int) -> int:
    """fp32 state as published models count it: the anchor alone."""
    return 4 * num_heads * key_dim * value_dim


def open_bytes(*, num_heads: int, key_dim: int, value_dim: int) -> int:
    """Rows of the open chunk beside the anchor: keys, values and log decays in fp32."""
    return 4 * num_heads * CHUNK * (2 * key_dim + value_dim)


def decode_bytes_per_token(*, num_heads: int, key_dim: int, value_dim: int) -> int:
    """Cache bytes that one decoded token reads (anchor and open rows) and writes (its own rows; 1/64 of a fold)."""
    sizes = {"num_heads": num_heads, "key_dim": key_dim, "value_dim": value_dim}
    written = open_bytes(**sizes) // CHUNK + state_bytes(**sizes) // CHUNK
    return state_bytes(**sizes) + open_bytes(**sizes) + written
