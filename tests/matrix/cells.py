"""The exactness matrix as data: its dimensions, all its cells, and a small set that covers every pair of values."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from itertools import combinations, product

from matrix.mixers import MIXERS

DIMENSIONS: dict[str, tuple] = {
    "prefix": ("off", "on"),
    "speculation": ("off", "lookup", "mtp", "draft"),
    "chunk": (1, 17, 64, 256),
    "batch": (1, 9, 32),
    "history": ("untouched", "aborted", "preempted", "restarted"),
    "mixer": tuple(MIXERS),
    "dtype": ("float32", "bfloat16"),
    "sampling": ("greedy", "sampled"),
}


ONE_MODEL = {**DIMENSIONS, "speculation": ("off", "lookup", "draft"), "mixer": ("as it is",)}
"""The dimensions for one given model without a prediction module."""


@dataclass(frozen=True)
class Cell:
    """One way to compute one answer."""

    prefix: str
    speculation: str
    chunk: int
    """Most prompt tokens of a sequence in one step."""
    batch: int
    """Sequences computed at once: the subject and random neighbours."""
    history: str
    mixer: str
    dtype: str
    sampling: str

    @property
    def name(self) -> str:
        return "-".join(str(value) for value in asdict(self).values())


NAMES = tuple(field.name for field in fields(Cell))


def all_cells() -> Iterator[Cell]:
    """Every combination that can be."""
    yield from (cell for cell in (Cell(*values) for values in product(*DIMENSIONS.values())) if is_possible(cell))


def is_possible(cell: Cell) -> bool:
    """What is kept over a restart is the prefix cache."""
    return cell.history != "restarted" or cell.prefix == "on"


def num_cells() -> int:
    return sum(1 for _ in all_cells())


def pairs_of(cell: Cell) -> set[tuple]:
    """Each two values that a cell has, with their dimensions."""
    values = asdict(cell)
    return {(one, values[one], other, values[other]) for one, other in combinations(NAMES, 2)}


def pairwise(seed: int = 0, tries: int = 40, dimensions: Mapping[str, tuple] = DIMENSIONS) -> list[Cell]:
    """Few cells that have every pair of values of two dimensions: greedy, the best of some random ones each time."""
    draw = random.Random(seed)
    missing = {
        (one, value, other, another)
        for one, other in combinations(NAMES, 2)
        for value in dimensions[one]
        for another in dimensions[other]
        if (one, value, other, another) != ("prefix", "off", "history", "restarted")
    }
    cells = []
    while missing:
        # One missing pair is put into each candidate, so that every round covers something.
        pairs = sorted(missing, key=repr)
        found = [_with_pair(draw.choice(pairs), draw, dimensions) for _ in range(tries)]
        best = max(found, key=lambda cell: len(pairs_of(cell) & missing))
        cells.append(best)
        missing -= pairs_of(best)
    return cells


def _with_pair(pair: tuple, draw: random.Random, dimensions: Mapping[str, tuple]) -> Cell:
    values = {name: draw.choice(choices) for name, choices in dimensions.items()}
    one, value, other, another = pair
    cell = Cell(**values | {one: value, other: another})
    if is_possible(cell):
        return cell
    # The pair stays; what contradicts it gives way.
    is_asked = "restarted" in (value, another)
    return replace(cell, prefix="on") if is_asked else replace(cell, history="untouched")


def in_order(seed: int = 0) -> list[Cell]:
    """All cells: the pairwise ones first, then the rest shuffled, so that a run cut short is a fair sample."""
    first = pairwise(seed)
    rest = [cell for cell in all_cells() if cell not in set(first)]
    random.Random(seed).shuffle(rest)
    return first + rest
