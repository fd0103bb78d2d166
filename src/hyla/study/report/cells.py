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
    """An arm at a budget: the runs of the size and rate that were chosen, and of all seeds that are there.

    rates: with their validation bits, mean over the seeds that all of them have; inf where a run diverged. marks: what
    makes its number less than it seems, in words; empty if nothing does.
    """

    arm: str
    budget: float
    size: str
    rate: float
    rates: dict[float, float]
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
    """By arm and budget, for all of which there is a run. Runs of other arms and budgets are no part of the study."""
    found = {}
    for arm in about.arms:
        for budget in about.budgets:
            its_runs = [result for result in results if (result.run.arm, result.run.budget) == (arm, budget)]
            if its_runs:
                found[arm, budget] = _cell(about, arm, budget, its_runs)
    return found


def _cell(about: About, arm: str, budget: float, its_runs: Sequence[LanguageResult]) -> Cell:
    by_setting: dict[tuple[str, float], dict[int, LanguageResult]] = {}
    for result in its_runs:
        by_setting.setdefault((result.run.size_name, result.run.rate), {})[result.run.seed] = result
    losses = _losses(by_setting)
    allowed = about.chosen.get((arm, budget))
    size, rate = min((setting for setting in losses if allowed in (None, setting[1])), key=lambda s: (losses[s], s))
    runs = tuple(run for seed, run in sorted(by_setting[size, rate].items()) if seed in about.seeds)
    return Cell(
        arm=arm,
        budget=budget,
        size=size,
        rate=rate,
        rates={a_rate: loss for (a_size, a_rate), loss in sorted(losses.items()) if a_size == size},
        runs=runs,
        is_at_edge=len(about.rates) > 1 and rate in (min(about.rates), max(about.rates)),
        is_complete={run.run.seed for run in runs} >= set(about.seeds),
        is_matched=all(abs(run.figures.flops / budget - 1) <= FLOPS_TOLERANCE for run in runs),
        has_diverged=any(run.figures.test_bits is None for run in runs),
    )


def _losses(by_setting: dict[tuple[str, float], dict[int, LanguageResult]]) -> dict[tuple[str, float], float]:
    """Validation bits of each size and rate, over seeds that all have (else over what each has)."""
    shared = set.intersection(*(set(by_seed) for by_seed in by_setting.values()))
    return {
        setting: mean(_validation(run) for seed, run in by_seed.items() if seed in shared or not shared)
        for setting, by_seed in by_setting.items()
    }


def _validation(run: LanguageResult) -> float:
    bits = run.figures.validation_bits
    return inf if bits is None else bits
