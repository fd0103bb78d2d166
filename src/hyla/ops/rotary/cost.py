"""What norm and rotation of heads cost. Element-wise work: no matrix product counts it."""

from __future__ import annotations


def flops_per_token(*, num_heads: int, key_dim: int, rotary_dim: int, has_norm: bool) -> int:
    """Three operations for each rotated channel (two products, one sum), four for each normed one (square, sum,
    division, weight)."""
    return num_heads * (3 * rotary_dim + (4 * key_dim if has_norm else 0))


def bytes_per_token(*, num_heads: int, key_dim: int, bytes_in: int, bytes_out: int) -> int:
    """Each channel is read once and written once."""
    return num_heads * key_dim * (bytes_in + bytes_out)
