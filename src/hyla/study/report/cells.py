"""Results put in their places: which runs stand for an arm at a budget, and what is wrong with a place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from statistics import mean

from hyla.study.report.about import About
from hyla.study.results import LanguageResult

FLOPS_TOLERANCE = 0.01
"""Arms are compared at budgets that they keep within this share."""


@dataclass(frozen=True)
class Cell:
    """An arm at a budget: the runs of the size (and rate, were there several) with the fewest validation bits, of all
    seeds that are there.

    is_at_edge: its rate stands on a search that ended at its lowest or highest rate. is_complete: runs of all sizes and
    seeds are there. is_matched: its FLOPs are the reference's (of the reference: the budget's) within 1%.
    """

    arm: str
    budget: float
    size: str
    rate: float
    runs: tuple[LanguageResult, ...]
    is_at_edge: bool
    is_complete: bool
    is_matched: bool
    has_diverged: bool

    @property
    def marks(self) -> list[str]:
        """Words for a table."""
        named = {
            "invalid: rate at the edge": self.is_at_edge,
            "incomplete": not self.is_complete,
            "unmatched": not self.is_matched,
            "diverged": self.has_diverged,
        }
        return [mark for mark, holds in named.items() if holds]

    @property
    def is_valid(self) -> bool:
        """Whether it may be compared: nothing is marked."""
        return not self.marks

    @property
    def bits(self) -> dict[int, float]:
        """Test bits per byte by seed, without runs that diverged."""
        return {run.run.seed: run.figures.test_bits for run in self.runs if run.figures.test_bits is not None}

    @property
    def flops(self) -> float:
        """Mean of its runs."""
        return mean(run.figures.flops for run in self.runs)


def cells(about: About, results: Sequence[LanguageResult]) -> dict[tuple[str, float], Cell]:
    """By arm and budget, for all of which there is a run with one of the study's seeds."""
    counted = [result for result in results if result.run.seed in about.seeds]
    found: dict[tuple[str, float], Cell] = {}
    arms = [about.reference, *(arm for arm in about.arms if arm != about.reference)]
    for budget in about.budgets:
        wanted = budget
        for arm in arms:
            its_runs = [result for result in counted if (result.run.arm, result.run.budget) == (arm, budget)]
            if its_runs:
                found[arm, budget] = _cell(about, arm, budget, wanted, its_runs)
                wanted = found[arm, budget].flops if arm == about.reference else wanted
    return {
        (arm, budget): found[arm, budget] for arm in about.arms for budget in about.budgets if (arm, budget) in found
    }


def _cell(about: About, arm: str, budget: float, flops: float, its_runs: Sequence[LanguageResult]) -> Cell:
    by_setting: dict[tuple[str, float], list[LanguageResult]] = {}
    for result in its_runs:
        by_setting.setdefault((result.run.size_name, result.run.rate), []).append(result)
    # A setting with more seeds goes before one with fewer: a half-finished one is not chosen by one lucky seed.
    size, rate = min(by_setting, key=lambda s: (-len(by_setting[s]), mean(map(_validation, by_setting[s])), s))
    runs = tuple(sorted(by_setting[size, rate], key=lambda result: result.run.seed))
    search = about.search(arm, budget)
    return Cell(
        arm=arm,
        budget=budget,
        size=size,
        rate=rate,
        runs=runs,
        is_at_edge=search is not None and search.is_at_edge,
        is_complete=len(its_runs) >= len(about.seeds) * about.sizes.get(budget, 1),
        is_matched=all(abs(run.figures.flops / flops - 1) <= FLOPS_TOLERANCE for run in runs),
        has_diverged=any(run.figures.test_bits is None for run in runs),
    )


def _validation(run: LanguageResult) -> float:
    bits = run.figures.validation_bits
    return inf if bits is None else bits
