"""Which learning rate an arm gets: chosen on the validation text, before anything is tested."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from hyla.study.plan import Tuning
from hyla.train import rate_search
from hyla.train.rate_search import best_rate, is_at_edge


@dataclass(frozen=True)
class Tuned:
    """What an arm's rates gave at one budget. bits: by rate, of the validation text; None: it diverged."""

    arm: str
    budget: float
    bits: dict[float, float | None]

    @property
    def best(self) -> float:
        """The rate with the fewest bits."""
        return best_rate(self.bits)

    @property
    def is_at_edge(self) -> bool:
        """Whether a better one may lie outside of those that were tried."""
        return is_at_edge(self.bits)


def next_rates(tuning: Tuning, found: Mapping[float, float | None]) -> tuple[float, ...]:
    """Rates to try now; none: the best one is known, or there were enough. found: by rate, bits of the validation
    text."""
    return rate_search.next_rates(tuning.rates, tuning.most_rates, found)


def rate_at(tuning: Tuning, tuned: Mapping[float, Tuned], budget: float) -> tuple[float, Tuned]:
    """(rate of an arm at a budget, what it stands on). tuned: the arm's, by budget."""
    nearest = min(tuned, key=lambda known: abs(math.log(known / budget)))
    return tuned[nearest].best * (budget / nearest) ** tuning.exponent, tuned[nearest]
