"""Bytes of FP8 weights, and of what their product needs for a while."""

from __future__ import annotations

from math import prod

from hyla.ops.weights.blocks import num_blocks


def weight_bytes(out_dim: int, in_dim: int, scale_bytes: int = 4) -> int:
    """Bytes of an FP8 matrix: one byte per weight and one scale per block.

    >>> weight_bytes(576, 7168)
    4129888
    """
    return out_dim * in_dim + scale_bytes * prod(num_blocks((out_dim, in_dim)))


def temporary_bytes(out_dim: int, in_dim: int, bytes_per_element: int, block_elements: int = 1 << 24) -> int:
    """Bytes of one dequantised block of outputs (`ops.exact.rows.block_sizes`); the native product needs none."""
    return min(out_dim * in_dim, block_elements + 64 * in_dim) * bytes_per_element
