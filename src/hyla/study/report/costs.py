"""What arms keep and take in decoding, and which are on the front of quality and cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hyla.study.report.about import About
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


def arm_costs(
    about: About, cells: Mapping[tuple[str, float], Cell], timed: Sequence[DecodeResult]
) -> dict[str, ArmCost]:
    """By arm. Bytes and time are those of its measured decoding; without one, bytes are its largest trained model's.

    Time is shown at the longest context that all arms have; bytes at the same one, at `CONTEXT`, or at their longest.
    """
    bytes_by_arm: dict[str, tuple[str, dict[str, int]]] = {}
    ms_by_arm: dict[str, dict[str, float]] = {}
    for arm in about.arms:
        its = [result for result in timed if result.run.arm == arm]
        trained = [cell for (name, _), cell in sorted(cells.items(), key=lambda item: item[0][1]) if name == arm]
        if its:
            # Of several sizes the largest: the nearest to what is served.
            largest = max(its, key=lambda result: result.run.size["hidden_dim"] * result.run.size["num_layers"])
            bytes_by_arm[arm] = largest.run.size_name, largest.figures.cache_bytes
            ms_by_arm[arm] = largest.figures.ms_per_token
        elif trained and trained[-1].runs and trained[-1].runs[0].figures.cache_bytes:
            bytes_by_arm[arm] = trained[-1].size, trained[-1].runs[0].figures.cache_bytes
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
