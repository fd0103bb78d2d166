"""Multiply-adds and bytes of lightning attention. One multiply-add is two FLOPs; formulas import no torch."""

from __future__ import annotations

from hyla.grid import CHUNK


def flops_per_token(*, num_heads: int, key_dim: int, value_dim: int) -> int:
    """FLOPs of one token inside a long sequence, forward, all heads (matrix products only).

    The query against 64 keys (C K), P against 64 values (C V), the query reads the anchor (K V), the fold (K V).
    """
    return 2 * num_heads * (CHUNK * (key_dim + value_dim) + 2 * key_dim * value_dim)


def recurrent_flops_per_token(*, num_heads: int, key_dim: int, value_dim: int) -> int:
    """FLOPs of one token in the recurrent form: write and query the state."""
    return 2 * num_heads * 2 * key_dim * value_dim


def state_bytes(*, num_heads: int, key_dim: int, value_dim: int) -> int:
    """fp32 state as published models count it: the anchor alone."""
    return 4 * num_heads * key_dim * value_dim


def open_bytes(*, num_heads: int, key_dim: int, value_dim: int) -> int:
    """Rows of the open chunk beside the anchor: k_t and v in fp32."""
    return 4 * num_heads * CHUNK * (key_dim + value_dim)


def decode_bytes_per_token(*, num_heads: int, key_dim: int, value_dim: int) -> int:
    """Cache bytes that one decoded token reads (anchor and open rows) and writes (its own rows; 1/64 of a fold)."""
    sizes = {"num_heads": num_heads, "key_dim": key_dim, "value_dim": value_dim}
    written = 4 * num_heads * (key_dim + value_dim) + state_bytes(**sizes) // CHUNK
    return state_bytes(**sizes) + open_bytes(**sizes) + written
