"""Multiply-adds and bytes of the gated delta rule. One multiply-add is two FLOPs; formulas import no torch."""

from __future__ import annotations

from hyla.grid import BLOCK, CHUNK


def flops_per_token(*, num_key_heads: int, num_value_heads: int, key_dim: int, value_dim: int) -> int:
    """FLOPs of one token inside a long sequence, forward, all heads: the matrix products of the chunk form, exactly.

    Per key head: the key and the query against 64 keys. Per value head: key and query read the anchor (2 K V), A and P
    meet u off the diagonal blocks (each of three blocks in four meets 64 rows), P meets it on them (16 V), T x (16 V),
    T's own rows (15 x 16), the fold (K V).
    """
    dots = num_key_heads * 2 * CHUNK * key_dim
    solved = 2 * (CHUNK - BLOCK) * value_dim + 2 * BLOCK * value_dim + (BLOCK - 1) * BLOCK
    per_value_head = 3 * key_dim * value_dim + solved
    return 2 * (dots + num_value_heads * per_value_head)


def recurrent_flops_per_token(*, num_value_heads: int, key_dim: int, value_dim: int) -> int:
    """FLOPs of one token in the recurrent form: read, write and query the state."""
    return 2 * num_value_heads * 3 * key_dim * value_dim


def state_bytes(*, num_value_heads: int, key_dim: int, value_dim: int) -> int:
    """fp32 state as published models count it: the anchor alone."""
    return 4 * num_value_heads * key_dim * value_dim


def open_bytes(*, num_key_heads: int, num_value_heads: int, key_dim: int, value_dim: int) -> int:
    """Rows of the open chunk beside the anchor: u, x, t, k_t in fp32, decay sums in float64."""
    per_value_head = 4 * (CHUNK * value_dim + BLOCK * value_dim + BLOCK * BLOCK) + 8 * CHUNK
    return num_value_heads * per_value_head + num_key_heads * 4 * CHUNK * key_dim


def decode_bytes_per_token(*, num_key_heads: int, num_value_heads: int, key_dim: int, value_dim: int) -> int:
    """Cache bytes that one decoded token reads (anchor and open rows) and writes (its own rows; 1/64 of a fold)."""
    sizes = {"num_value_heads": num_value_heads, "key_dim": key_dim, "value_dim": value_dim}
    read = state_bytes(**sizes) + open_bytes(num_key_heads=num_key_heads, **sizes)
    written = 4 * (num_value_heads * (2 * value_dim + BLOCK) + num_key_heads * key_dim) + 8 * num_value_heads
    return read + written + state_bytes(**sizes) // CHUNK
