"""Which learning rate an arm gets: chosen on the validation text, before anything is tested."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from hyla.study.plan import Tuning


@dataclass(frozen=True)
class Tuned:
    """What an arm's rates gave at one budget. bits: by rate, of the validation text; None: it diverged.

    is_at_edge: the best rate is the lowest or highest of those that were tried, so a better one may lie outside.
    """

    arm: str
    budget: float
    bits: dict[float, float | None]

    @property
    def best(self) -> float:
        """The rate with the fewest bits; of equals the lowest, so that a search goes down where all diverged."""
        return min(self.bits, key=lambda rate: (self._bits_or_more(rate), rate))

    def _bits_or_more(self, rate: float) -> float:
        found = self.bits[rate]
        return math.inf if found is None else found

    @property
    def is_at_edge(self) -> bool:
        return self.best in (min(self.bits), max(self.bits))


def next_rates(tuning: Tuning, found: Mapping[float, float | None]) -> tuple[float, ...]:
    """Rates to try now, given what is known; none: the best one is known, or there were enough.

    found: by rate, bits of the validation text.
    """
    missing = tuple(rate for rate in tuning.rates if rate not in found)
    if missing:
        return missing
    tuned = Tuned("", 0.0, dict(found))
    if not tuned.is_at_edge or len(found) >= tuning.most_rates:
        return ()
    further = tuned.best * tuning.factor if tuned.best == max(found) else tuned.best / tuning.factor
    further = float(f"{further:.3g}")
    return (further,) if further < 1 else ()


def rate_at(tuning: Tuning, tuned: Mapping[float, Tuned], budget: float) -> tuple[float, Tuned]:
    """(rate of an arm at a budget, what it stands on). tuned: the arm's, by budget."""
    nearest = min(tuned, key=lambda known: abs(math.log(known / budget)))
    return tuned[nearest].best * (budget / nearest) ** tuning.exponent, tuned[nearest]
