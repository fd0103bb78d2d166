"""What arms keep and take in decoding, and which are on the front of quality and cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hyla.study.report.cells import Cell
from hyla.study.results import DecodeResult
from hyla.study.statistics import Cost

CONTEXT = 65_536
"""Tokens of the context at which caches are compared, where nothing was timed."""


@dataclass(frozen=True)
class ArmCost:
    """Of one sequence. context: tokens of it, for the bytes; timed_context: for the time. size: of the model.

    cache_bytes, ms_per_token: None where no result has them.
    """

    size: str
    context: int | None
    cache_bytes: float | None
    timed_context: int | None
    ms_per_token: float | None


def arm_costs(cells: Mapping[str, Cell], timed: Sequence[DecodeResult]) -> dict[str, ArmCost]:
    """By arm. Bytes and time are those of the measured decoding where all arms have one; else bytes are those of the
    trained models, without time.

    cells: by arm, the place whose model is meant. Time is shown at the longest context that all arms have; bytes at the
    same one, at `CONTEXT`, or at their longest.
    """
    measured = {result.run.arm: result for result in timed}
    is_timed = bool(cells) and set(cells) <= set(measured)
    ms_by_arm = {arm: measured[arm].figures.ms_per_token for arm in cells} if is_timed else {}
    bytes_by_arm: dict[str, tuple[str, dict[str, int]]] = {}
    for arm, cell in cells.items():
        if is_timed:
            bytes_by_arm[arm] = measured[arm].run.size_name, measured[arm].figures.cache_bytes
        elif cell.runs[0].figures.cache_bytes:
            bytes_by_arm[arm] = cell.size, cell.runs[0].figures.cache_bytes
    shared = _shared([by_context for _, by_context in bytes_by_arm.values()])
    timed_context = max(_shared(list(ms_by_arm.values())), default=None)
    context = next((c for c in (timed_context, CONTEXT) if c in shared), max(shared, default=None))
    return {
        arm: ArmCost(
            size,
            context,
            None if context is None else by_context[str(context)],
            timed_context,
            None if timed_context is None or arm not in ms_by_arm else ms_by_arm[arm][str(timed_context)],
        )
        for arm, (size, by_context) in bytes_by_arm.items()
    }


def _shared(tables: Sequence[Mapping[str, float]]) -> set[int]:
    """Contexts that all have."""
    return set(map(int, set.intersection(*(set(table) for table in tables)))) if tables else set()


def costs_of(found: Mapping[str, ArmCost]) -> dict[str, Cost]:
    """What the recommendation asks for; arms whose bytes are not known are left out."""
    return {
        arm: Cost(cost.cache_bytes, cost.ms_per_token) for arm, cost in found.items() if cost.cache_bytes is not None
    }


def front(points: Mapping[str, tuple[float, float]]) -> set[str]:
    """Arms than which no other is at least as good in both (lower is better) and better in one.

    >>> sorted(front({"a": (1.0, 3.0), "b": (2.0, 2.0), "c": (2.0, 3.0)}))
    ['a', 'b']
    """
    return {
        arm
        for arm, (loss, cost) in points.items()
        if not any(
            other_loss <= loss and other_cost <= cost and (other_loss, other_cost) != (loss, cost)
            for other_loss, other_cost in points.values()
        )
    }
