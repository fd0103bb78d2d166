"""Where the blocks of an FP8 matrix lie: arithmetic that needs no PyTorch.

Source: the published format of DeepSeek-V3, arXiv 2412.19437, section 3.3; shards: MiMo-V2.5-Pro's files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from hyla.errors import ConfigError

FP8_BLOCK = 128
"""Side of a block."""


def num_blocks(shape: Sequence[int]) -> tuple[int, ...]:
    """Shape of the scales of a weight [..., O, D].

    >>> num_blocks((576, 7168)), num_blocks((3, 20, 200))
    ((5, 56), (3, 1, 2))
    """
    return (*shape[:-2], -(-shape[-2] // FP8_BLOCK), -(-shape[-1] // FP8_BLOCK))


def starts_block(row: int) -> bool:
    """Whether a block begins at this row of a matrix whose first block begins at row 0."""
    return row % FP8_BLOCK == 0


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
        return -(-(self.offset + self.rows) // FP8_BLOCK)


@cache
def strips(num_rows: int, shard: Shard | None = None) -> tuple[tuple[int, int, int], ...]:
    """(first row, last row + 1, row of scales) of each block down a matrix.

    >>> strips(200), strips(160, Shard(80, offset=64))
    (((0, 128, 0), (128, 200, 1)), ((0, 64, 0), (64, 80, 1), (80, 144, 2), (144, 160, 3)))
    """
    shard, found = shard or Shard(max(num_rows, 1)), []
    for place, start in enumerate(range(0, num_rows, shard.rows)):
        for block in range(shard.num_blocks):
            first, last = (block * FP8_BLOCK - shard.offset, (block + 1) * FP8_BLOCK - shard.offset)
            found.append((start + max(first, 0), start + min(last, shard.rows), place * shard.num_blocks + block))
    return tuple(found)


@dataclass(frozen=True)
class BlockLayout:
    """The blocks of a weight [..., O, D]: how its scales are shaped, and which rows share them."""

    shape: tuple[int, ...]
    shard: Shard | None = None
    """The shards of the rows of a matrix; None: it is one, whose blocks begin at the first row."""

    @property
    def scale_shape(self) -> tuple[int, ...]:
        """[..., blocks down, blocks across].

        >>> BlockLayout((160, 300), Shard(80, offset=64)).scale_shape
        (4, 3)
        """
        rows, inner = num_blocks(self.shape)[-2:]
        if self.shard is not None:
            rows = self.shape[-2] // self.shard.rows * self.shard.num_blocks
        return (*self.shape[:-2], rows, inner)

    @property
    def strips(self) -> tuple[tuple[int, int, int], ...]:
        """(first row, last row + 1, row of scales) of each block down one matrix."""
        return strips(self.shape[-2], self.shard)

    def rows(self, first: int, last: int) -> tuple[BlockLayout, slice]:
        """The layout of rows first to last alone, and the rows of scales that they keep.

        Raises ConfigError where a part of some shards cannot be said as shards of equal height.
        """
        shape = (*self.shape[:-2], last - first, self.shape[-1])
        if self.shard is None:
            part = Shard(last - first, first % FP8_BLOCK)
            start = first // FP8_BLOCK
            plain = BlockLayout(shape, part if part.offset else None)
            return plain, slice(start, start + part.num_blocks)
        high = self.shard.rows
        if first % high or last % high:
            raise ConfigError(f"rows {first} to {last} cut FP8 shards of {high} rows; dequantise the weight first")
        scales = slice(first // high * self.shard.num_blocks, last // high * self.shard.num_blocks)
        return replace(self, shape=shape), scales

    def columns(self, first: int, last: int) -> tuple[BlockLayout, slice]:
        """The layout of columns first to last alone, and the columns of scales that they keep.

        Raises ConfigError where they begin inside a block.
        """
        if not starts_block(first) or not (starts_block(last) or last == self.shape[-1]):
            raise ConfigError(f"columns {first} to {last} cut FP8 blocks of {FP8_BLOCK}; dequantise the weight first")
        return replace(self, shape=(*self.shape[:-1], last - first)), slice(first // FP8_BLOCK, -(-last // FP8_BLOCK))
