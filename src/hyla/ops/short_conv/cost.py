"""What a short convolution costs."""

from __future__ import annotations

RING = 16
"""Inputs kept per sequence: row = position % RING."""


def flops_per_token(channels: int, taps: int) -> int:
    """L products and L - 1 sums per channel."""
    return channels * (2 * taps - 1)


def cache_bytes_per_sequence(channels: int, bytes_per_element: int) -> int:
    """The ring of the last RING inputs."""
    return RING * channels * bytes_per_element


def decode_bytes_per_sequence(channels: int, taps: int, bytes_per_element: int) -> int:
    """Read L - 1 kept inputs and the new one, write the new one; the fp32 result is written once."""
    return channels * ((taps + 1) * bytes_per_element + 4)
