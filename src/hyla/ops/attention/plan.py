"""How the rows of a packed batch meet pages of keys: query tiles, their pages, and where new rows are written.

A *tile* is up to 64 rows of one sequence that stand in one 64-token page of positions; it meets the pages up to its
own, from page 0 or from the first one that its window reaches; only the last one is partly ahead of it. Tiles of like
size and reach form a *group*, which is computed together: its shorter tiles meet the null page 0 in the missing places,
wholly masked. How rows are tiled and grouped changes no
bit of a result, only its speed. Everything here is made from host integers, once per batch and head layout.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch

from hyla.grid import CHUNK
from hyla.ops.attention.page_table import page_lists
from hyla.ops.batch import Batch

STEP_BYTES = 1 << 22
"""Size of the largest temporary of one batched product, about what stays in a core's cache."""

SCORE_BYTES = 1 << 25
"""Size of a tile's scores over all its pages; long contexts get shorter tiles."""

MAX_TILE_ROWS = 512
"""Rows (positions times query heads of a key head) of a tile."""

MIN_BLOCK_ROWS = 16
"""From this many new rows on, a page that starts with them is written as a block."""


@dataclass(frozen=True)
class HeadLayout:
    """The sizes that tiles depend on."""

    num_kv_heads: int
    group_heads: int
    """R: query heads of one key head."""
    key_dim: int
    value_dim: int
    row_counts: tuple[int, ...]
    """Row counts that the products may have (ascending), and multiples of the last one."""
    window: int | None = None
    """Keys that a row sees, its own included; None: all earlier ones."""

    def first_page(self, position: int) -> int:
        """The first page that a row at this position sees."""
        return 0 if self.window is None else max(0, position - self.window + 1) // CHUNK

    def tile_rows(self, positions: int) -> int:
        """M: rows of a tile of so many positions, padded."""
        rows, last = positions * self.group_heads, self.row_counts[-1]
        return next((count for count in self.row_counts if count >= rows), -(-rows // last) * last)

    def pair_bytes(self, positions: int) -> int:
        """Bytes of the largest temporary of one (tile, page) pair, in fp32."""
        rows = self.tile_rows(positions)
        return 4 * self.num_kv_heads * max(CHUNK * max(self.key_dim, self.value_dim), rows * self.key_dim,
                                           rows * self.value_dim, rows * CHUNK)  # fmt: skip


@dataclass(frozen=True)
class Tile:
    """`count` rows from flat row `row` on, at positions from `position` on; they meet `pages` (in order), the first of
    which is page `first_page` of the sequence."""

    row: int
    position: int
    count: int
    pages: tuple[int, ...]
    first_page: int = 0

    def part(self, first: int, count: int, layout: HeadLayout) -> Tile:
        """`count` of its rows, with the pages that they see."""
        position = self.position + first
        first_page = layout.first_page(position)
        return Tile(self.row + first, position, count, self.pages[first_page - self.first_page :], first_page)


@dataclass(frozen=True)
class TileGroup:
    """t tiles of M rows per key head, meeting n pages each. G key heads, B = t * G * M."""

    num_tiles: int
    num_rows: int
    num_pages: int
    step_pages: int
    """Pages of one batched product, a power of two: an aligned subtree of the sum over pages."""
    first_page: int
    """Where the pages begin in the tree over a sequence's pages; tiles of a group begin alike."""
    pages: slice | torch.Tensor
    """The pages as a slice (read in place), or int64 [t, n]."""
    first_masked: int
    """The first page that is not wholly visible to every row of the group."""
    mask: torch.Tensor
    """bool [t, n - first_masked, 1, M, 64]: the key is ahead of the row or behind its window."""
    source_B: torch.Tensor
    """int64: query row (flat row * Hq + head) at each place of [t, G, M]; spare places repeat a row."""
    rows_R: slice | torch.Tensor
    """The query rows of the group, ascending; a slice where they follow each other, so that nothing is scattered."""
    places_R: slice | torch.Tensor
    """The place of each of them."""

    def steps(self) -> list[tuple[int, int]]:
        """Ranges of pages: all of them, or cut at multiples of step_pages of the sequence."""
        if self.num_pages <= self.step_pages:
            return [(0, self.num_pages)]
        begin = self.step_pages - self.first_page % self.step_pages
        cuts = [0, *range(begin, self.num_pages, self.step_pages), self.num_pages]
        return list(pairwise(cuts))


@dataclass(frozen=True)
class WritePlan:
    """Which new keys and values go to which places of which pages."""

    block_rows_IC: torch.Tensor
    """int64 [I, 64]: flat rows of each page that is written whole; places past the sequence's end repeat a row."""
    block_pages_I: torch.Tensor
    single_rows_W: torch.Tensor
    """int64: rows that are written one by one, their pages and their places in them."""
    single_pages_W: torch.Tensor
    single_places_W: torch.Tensor


@dataclass(frozen=True)
class AttentionPlan:
    """How one batch's rows meet the pages of one head layout."""

    num_pages: int
    """Pages of the scratch cache of a batch without a cache, null page included."""
    write: WritePlan
    groups: tuple[TileGroup, ...]


def attention_plan(batch: Batch, layout: HeadLayout) -> AttentionPlan:
    """The batch's plan for this head layout; kept on the batch."""
    return batch.memo(("attention plan", layout), lambda: _make_plan(batch, layout))


def _make_plan(batch: Batch, layout: HeadLayout) -> AttentionPlan:
    pages = page_lists(batch, layout.window)
    spans = [span for n in range(batch.num_sequences) for span in _page_spans(batch, n, pages[n])]
    return AttentionPlan(
        num_pages=1 + sum(len(ids) for ids in pages),
        write=_write_plan(batch, spans),
        groups=tuple(_make_group(batch, layout, *found) for found in _group_tiles(spans, layout)),
    )


def _page_spans(batch: Batch, n: int, pages: tuple[int, ...]) -> list[Tile]:
    """The new rows of a sequence, cut at page ends."""
    spans, start, end = [], batch.starts[n], batch.ends[n]
    for index in range(start // CHUNK, (end - 1) // CHUNK + 1):
        first = max(start, index * CHUNK)
        last = min(end, (index + 1) * CHUNK)
        spans.append(Tile(batch.offsets[n] + first - start, first, last - first, pages[: index + 1]))
    return spans


def _write_plan(batch: Batch, spans: list[Tile]) -> WritePlan:
    # A scratch page has nothing to keep, and is written whole so that it holds no junk.
    least = MIN_BLOCK_ROWS if batch.is_cached else 1
    is_block = [span.position % CHUNK == 0 and span.count >= least for span in spans]
    blocks = [span for span, block in zip(spans, is_block) if block]
    singles = [span for span, block in zip(spans, is_block) if not block]
    first, last = (torch.tensor([value(span) for span in blocks], dtype=torch.int64).view(-1, 1)
                   for value in (lambda span: span.row, lambda span: span.row + span.count - 1))  # fmt: skip
    rows = [(span.row + i, span.pages[-1], span.position % CHUNK + i) for span in singles for i in range(span.count)]
    columns = zip(*rows) if rows else ((), (), ())
    single_rows, single_pages, single_places = (batch.index(column) for column in columns)
    return WritePlan(
        block_rows_IC=torch.minimum(first + torch.arange(CHUNK), last).to(batch.device),
        block_pages_I=batch.index([span.pages[-1] for span in blocks]),
        single_rows_W=single_rows,
        single_pages_W=single_pages,
        single_places_W=single_places,
    )


def _group_tiles(spans: list[Tile], layout: HeadLayout) -> list[tuple[int, list[Tile]]]:
    """Groups as (positions of a tile, tiles)."""
    by_shape: dict[tuple[int, ...], list[Tile]] = {}
    for span in spans:
        span = span.part(0, span.count, layout)
        positions = _tile_positions(span, layout)
        for first in range(0, span.count, positions):
            tile = span.part(first, min(positions, span.count - first), layout)
            by_shape.setdefault((positions, *_tree_shape(tile, layout)), []).append(tile)
    groups = []
    for (positions, *_), tiles in by_shape.items():
        pair_bytes = layout.pair_bytes(positions)
        tiles.sort(key=lambda tile: len(tile.pages))
        group: list[Tile] = []
        for tile in tiles:
            reach = len(tile.pages)
            is_like = group and reach <= len(group[0].pages) * 5 // 4
            if not is_like or (len(group) + 1) * reach * pair_bytes > STEP_BYTES:
                group = []
                groups.append((positions, group))
            group.append(tile)
    return groups


def _tree_shape(tile: Tile, layout: HeadLayout) -> tuple[int, ...]:
    """Equal for tiles whose sums over pages pair them alike: from page 0 on, all do.

    Up to 2^k pages lie in at most two aligned blocks of 2^k, so their place in the first block decides.
    """
    count = len(tile.pages)
    return () if layout.window is None else (count, tile.first_page % (1 << (count - 1).bit_length()))


def _tile_positions(span: Tile, layout: HeadLayout) -> int:
    """A power of two, as large as the rows and the scores allow."""
    positions = 1
    while positions < span.count:
        rows = layout.tile_rows(2 * positions)
        if rows > MAX_TILE_ROWS or 4 * layout.num_kv_heads * rows * CHUNK * len(span.pages) > SCORE_BYTES:
            break
        positions *= 2
    return positions


def _make_group(batch: Batch, layout: HeadLayout, positions: int, tiles: list[Tile]) -> TileGroup:
    heads, rows = layout.num_kv_heads, layout.tile_rows(positions)
    num_pages = max(len(tile.pages) for tile in tiles)
    first_masked = min(len(tile.pages) for tile in tiles) - 1 if layout.window is None else 0
    numbers = [(tile.count, tile.row, tile.position, tile.first_page) for tile in tiles]
    count, row, position, first_page = torch.tensor(numbers).T[..., None]
    place = torch.arange(rows)
    step = torch.minimum(place // layout.group_heads, count - 1)
    query = (row + step) * heads * layout.group_heads + place % layout.group_heads
    source = (query[:, None] + torch.arange(heads)[:, None] * layout.group_heads).flatten()
    is_real = (place < count * layout.group_heads)[:, None].expand(-1, heads, -1)
    places = is_real.flatten().nonzero().flatten()
    rows_R, order = source[places].sort()
    key = torch.arange(first_masked * CHUNK, num_pages * CHUNK).view(-1, 1, CHUNK)
    key = key + CHUNK * first_page[:, :, None, None]
    place = (position + step)[:, None, :, None]
    mask = key > place
    if layout.window is not None:
        mask |= key <= place - layout.window
    step_pages = max(1, STEP_BYTES // (len(tiles) * layout.pair_bytes(positions)))
    return TileGroup(
        num_tiles=len(tiles),
        num_rows=rows,
        num_pages=num_pages,
        step_pages=1 << (step_pages.bit_length() - 1),
        first_page=tiles[0].first_page,
        pages=_page_index(batch, tiles, num_pages),
        first_masked=first_masked,
        mask=mask[:, :, None].to(batch.device),
        source_B=source.to(batch.device),
        rows_R=_as_slice(rows_R, batch),
        places_R=_as_slice(places[order], batch),
    )


def _as_slice(index: torch.Tensor, batch: Batch) -> slice | torch.Tensor:
    """The index as a slice if it counts up by one."""
    first, last = int(index[0]), int(index[-1])
    if last - first + 1 == index.numel() and torch.equal(index, torch.arange(first, last + 1)):
        return slice(first, last + 1)
    return index.to(batch.device)


def _page_index(batch: Batch, tiles: list[Tile], num_pages: int) -> slice | torch.Tensor:
    first = tiles[0].pages[0]
    if len(tiles) == 1 and tiles[0].pages == tuple(range(first, first + num_pages)):
        return slice(first, first + num_pages)
    return batch.index([tile.pages + (0,) * (num_pages - len(tile.pages)) for tile in tiles])
