"""Multiply-adds and bytes of linear attention. One multiply-add is two FLOPs; formulas import no torch."""

from __future__ import annotations

from hyla.grid import CHUNK

LANES = 8


def row_width(value_dim: int) -> int:
    """W, columns of a value row: the values, a one, and zeros up to a multiple of 8.

    Products with 5, 6, 7, 9, 10 or 11 columns have been seen to depend on a row's place; those with multiples of 8
    have not (PyTorch 2.13, oneMKL, fp32, 64 and 128 summands).
    """
    return -(-(value_dim + 1) // LANES) * LANES


def flops_per_token(*, num_heads: int, key_dim: int, value_dim: int) -> int:
    """FLOPs of one token inside a long sequence, forward, all heads (matrix products only), W = row_width.

    The query reads the anchor (K W), meets 64 keys (64 K) and their values (64 W); the fold (K W).
    """
    width = row_width(value_dim)
    return 2 * num_heads * (2 * key_dim * width + CHUNK * (key_dim + width))


def recurrent_flops_per_token(*, num_heads: int, key_dim: int, value_dim: int) -> int:
    """FLOPs of one token in the recurrent form: write and query S and z."""
    return 2 * num_heads * 2 * key_dim * row_width(value_dim)


def state_bytes(*, num_heads: int, key_dim: int, value_dim: int) -> int:
    """fp32 state: S and z of the anchor."""
    return 4 * num_heads * key_dim * row_width(value_dim)


def open_bytes(*, num_heads: int, key_dim: int, value_dim: int) -> int:
    """Rows of the open chunk beside the anchor: features and values in fp32."""
    return 4 * num_heads * CHUNK * (key_dim + row_width(value_dim))


def decode_bytes_per_token(*, num_heads: int, key_dim: int, value_dim: int) -> int:
    """Cache bytes that one decoded token reads (anchor and open rows) and writes (its own rows; 1/64 of a fold)."""
    sizes = {"num_heads": num_heads, "key_dim": key_dim, "value_dim": value_dim}
    read = state_bytes(**sizes) + open_bytes(**sizes)
    return read + 4 * num_heads * (key_dim + row_width(value_dim)) + state_bytes(**sizes) // CHUNK
