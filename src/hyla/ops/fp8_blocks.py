"""Where the blocks of an FP8 matrix lie: arithmetic that needs no PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BLOCK = 128
"""Side of a block."""


def num_blocks(shape: Sequence[int]) -> tuple[int, ...]:
    """Shape of the scales of a weight [..., O, D].

    >>> num_blocks((576, 7168)), num_blocks((3, 20, 200))
    ((5, 56), (3, 1, 2))
    """
    return (*shape[:-2], -(-shape[-2] // BLOCK), -(-shape[-1] // BLOCK))


@dataclass(frozen=True)
class Shard:
    """Where blocks begin in a matrix that is a row of tensor-parallel shards, each cut into blocks on its own."""

    rows: int
    """Rows of one shard, all its blocks together or a part of them."""
    offset: int = 0
    """Rows of the first row's block that lie before it, 0 to 127."""

    @property
    def num_blocks(self) -> int:
        """Blocks that the rows of one shard touch."""
        return -(-(self.offset + self.rows) // BLOCK)
