"""Multiply-adds and bytes of the state space dual. One multiply-add is two FLOPs; formulas import no torch."""

from __future__ import annotations

from hyla.grid import CHUNK


def flops_per_token(*, num_groups: int, num_heads: int, key_dim: int, value_dim: int) -> int:
    """FLOPs of one token inside a long sequence, forward, all heads (matrix products only).

    Per group: the query against 64 keys. Per head: the query reads the anchor (K V), P meets 64 values (64 V), the
    chunk folds (K V).
    """
    per_head = 2 * key_dim * value_dim + CHUNK * value_dim
    return 2 * (num_groups * CHUNK * key_dim + num_heads * per_head)


def recurrent_flops_per_token(*, num_heads: int, key_dim: int, value_dim: int) -> int:
    """FLOPs of one token in the recurrent form: write and query the state."""
    return 2 * num_heads * 2 * key_dim * value_dim


def state_bytes(*, num_heads: int, key_dim: int, value_dim: int) -> int:
    """fp32 state as published models count it: the anchor alone."""
    return 4 * num_heads * key_dim * value_dim


def open_bytes(*, num_groups: int, num_heads: int, key_dim: int, value_dim: int) -> int:
    """Rows of the open chunk beside the anchor: u and k_t in fp32, decay sums in float64."""
    return CHUNK * (4 * num_heads * value_dim + 4 * num_groups * key_dim + 8 * num_heads)


def decode_bytes_per_token(*, num_groups: int, num_heads: int, key_dim: int, value_dim: int) -> int:
    """Cache bytes that one decoded token reads (anchor and open rows) and writes (its own row; 1/64 of a fold)."""
    sizes = {"num_heads": num_heads, "key_dim": key_dim, "value_dim": value_dim}
    read = state_bytes(**sizes) + open_bytes(num_groups=num_groups, **sizes)
    written = open_bytes(num_groups=num_groups, **sizes) // CHUNK
    return read + written + state_bytes(**sizes) // CHUNK
