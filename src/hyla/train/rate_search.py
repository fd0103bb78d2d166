"""Which learning rates to try: a few first, and one more while the best is the lowest or highest. No PyTorch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


def best_rate(found: Mapping[float, float | None]) -> float:
    """The rate with the lowest figure; of equals the lowest, so that a search goes down where all diverged (None)."""
    return min(found, key=lambda rate: (_or_more(found[rate]), rate))


def _or_more(figure: float | None) -> float:
    return math.inf if figure is None else figure


def is_at_edge(found: Mapping[float, float | None]) -> bool:
    """Whether the best rate is the lowest or highest of those that were tried, so that a better one may lie outside."""
    return best_rate(found) in (min(found), max(found))


def next_rates(first: Sequence[float], most: int, found: Mapping[float, float | None]) -> tuple[float, ...]:
    """Rates to try now, given what is known; none: the best one is known, or there were `most`.

    first: rates that are tried in any case, rising by about one factor, by which the search goes on. found: by rate, a
    figure that is to be low; None: it diverged.
    """
    missing = tuple(rate for rate in first if rate not in found)
    if missing:
        return missing
    if not is_at_edge(found) or len(found) >= most:
        return ()
    factor = (max(first) / min(first)) ** (1 / (len(first) - 1))
    best = best_rate(found)
    further = float(f"{best * factor if best == max(found) else best / factor:.3g}")
    return (further,) if further < 1 and further not in found else ()
