"""Multiply-adds and bytes of linear attention. One multiply-add is two FLOPs; formulas import no torch."""

from __future__ import annotations

CHUNK = 64


def flops_per_token(*, num_heads: int, key_dim: int, value_dim: int) -> int:
    """FLOPs of one token inside a long sequence, forward, all heads (matrix products only), W = value_dim + 1.

    The query reads the anchor (K W), meets 64 keys (64 K) and their values (64 W); the fold (K W).
    """
    width = value_dim + 1
    return 2 * num_heads * (2 * key_dim * width + CHUNK * (key_dim + width))


def recurrent_flops_per_token(*, num_heads: int, key_dim: int, value_dim: int) -> int:
    """FLOPs of one token in the recurrent form: write and query S and z."""
    return 2 * num_heads * 2 * key_dim * (value_dim + 1)


def state_bytes(*, num_heads: int, key_dim: int, value_dim: int) -> int:
    """fp32 state: S and z of the anchor."""
    return 4 * num_heads * key_dim * (value_dim + 1)


def open_bytes(*, num_heads: int, key_dim: int, value_dim: int) -> int:
    """Rows of the open chunk beside the anchor: features and values in fp32."""
    return 4 * num_heads * CHUNK * (key_dim + value_dim + 1)


def decode_bytes_per_token(*, num_heads: int, key_dim: int, value_dim: int) -> int:
    """Cache bytes that one decoded token reads (anchor and open rows) and writes (its own rows; 1/64 of a fold)."""
    sizes = {"num_heads": num_heads, "key_dim": key_dim, "value_dim": value_dim}
    read = state_bytes(**sizes) + open_bytes(**sizes)
    return read + 4 * num_heads * (key_dim + value_dim + 1) + state_bytes(**sizes) // CHUNK
