"""The recommendation of a study: the cheapest arm that is not worse than the best beyond the noise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from statistics import fmean

from hyla.errors import ConfigError
from hyla.study.statistics.comparison import Comparison


@dataclass(frozen=True)
class Cost:
    """What an arm costs to serve at one context length: bytes of cache of a sequence, milliseconds of a token (None:
    not timed)."""

    cache_bytes: float
    ms_per_token: float | None = None


@dataclass(frozen=True)
class Recommendation:
    """What to take.

    arm: the recommended one, None where no arm could be judged. best: the arm with the best mean of the first measure.
    tied: arms that are not worse than the best of any measure beyond the noise, the cheapest first.
    worse: arm -> measures in which it is worse than that measure's best beyond the noise; only arms with any.
    left_out: arm -> why it was not compared.
    is_inside_the_noise: whether the study leaves more than one arm tied.
    words: the recommendation in plain words.
    """

    arm: str | None
    best: str | None
    tied: tuple[str, ...]
    worse: dict[str, tuple[str, ...]]
    left_out: dict[str, str]
    is_inside_the_noise: bool
    words: str


def recommend(
    comparisons: Mapping[str, Sequence[Comparison]],
    costs: Mapping[str, Cost],
    left_out: Mapping[str, str] | None = None,
) -> Recommendation:
    """From the comparisons of all pairs of each measure (by its name, the main one first; `compare_all`, or both that
    against a reference and `all_others`). Cheapest means: fewest bytes of cache, then least time of a token.

    left_out: arm -> why it was not compared (an invalid row), to be said in the words.
    Raises ConfigError where a compared arm has no cost.
    """
    out = dict(left_out or {})
    main, *others = [_Measure(name, found) for name, found in comparisons.items()] or [_Measure("nothing", ())]
    if main.best is None:
        words = "No recommendation: no two arms could be compared." + _why_left_out(out)
        return Recommendation(None, None, (), {}, out, False, words)
    if missing := [arm for arm in main.arms if arm not in costs]:
        raise ConfigError(f"no cost of the arms {', '.join(missing)}: give each one's cache bytes")
    arms = [arm for arm in main.arms if arm == main.best or main.against_best(arm) is not None]
    out |= {arm: f"no paired seeds with {main.best}, the best" for arm in main.arms if arm not in arms}
    measures = [main] + [measure for measure in others if measure.best is not None]
    worse = {arm: tuple(m.name for m in measures if m.is_worse(arm)) for arm in arms}
    order = sorted(arms, key=lambda arm: _price(costs[arm]))
    tied = tuple(arm for arm in order if not worse[arm])
    # Where every arm is worse in something, the main measure decides.
    arm = (tied or [arm for arm in order if main.name not in worse[arm]])[0]
    worse = {arm: names for arm, names in worse.items() if names}
    words = " ".join(_words(arm, main, costs[arm], tied, worse)) + _why_left_out(out)
    return Recommendation(arm, main.best, tied, worse, out, len(tied) > 1, words)


class _Measure:
    """One measure's comparisons: its arms, the best of them, and who is worse than the best beyond the noise."""

    def __init__(self, name: str, comparisons: Sequence[Comparison]):
        self.name = name
        self.comparisons = [c for c in comparisons if c.difference is not None]
        self.arms = list(dict.fromkeys(arm for c in self.comparisons for arm in (c.first, c.second)))
        leads = {arm: [self._lead(c, arm) for c in self.comparisons if arm in (c.first, c.second)] for arm in self.arms}
        self.best = max(self.arms, key=lambda arm: fmean(leads[arm])) if self.arms else None

    def is_worse(self, arm: str) -> bool:
        """Whether the arm is worse than the best beyond the noise."""
        found = self.against_best(arm)
        return found is not None and found.better == self.best

    def against_best(self, arm: str) -> Comparison | None:
        """The arm's comparison with the best."""
        return next((c for c in self.comparisons if {c.first, c.second} == {arm, self.best}), None)

    def most_lost(self, arm: str) -> float | None:
        """How much worse than the best the arm may be by the comparison's own 95% interval."""
        found = self.against_best(arm)
        if found is None or found.difference is None:
            return None
        is_upwards = (found.first == arm) == (found.measure == "lower")
        return found.difference.high if is_upwards else -found.difference.low

    @staticmethod
    def _lead(comparison: Comparison, arm: str) -> float:
        """By how much the arm is better than the other one of a comparison."""
        if comparison.difference is None:
            return 0.0
        is_negated = (arm == comparison.first) == (comparison.measure == "lower")
        return -comparison.difference.estimate if is_negated else comparison.difference.estimate


def _price(cost: Cost) -> tuple[float, float]:
    return cost.cache_bytes, inf if cost.ms_per_token is None else cost.ms_per_token


def _words(
    arm: str, main: _Measure, cost: Cost, tied: Sequence[str], worse: Mapping[str, Sequence[str]]
) -> Iterable[str]:
    """The recommendation, sentence by sentence."""
    time = "" if cost.ms_per_token is None else f", {cost.ms_per_token:.3g} ms a token"
    price = f"{cost.cache_bytes:,.0f} bytes of cache{time}"
    if len(tied) > 1:
        yield f"Inside the noise: {', '.join(tied)} cannot be told apart by this study."
        yield f"Take {arm}, the cheapest of them ({price})."
    elif tied:
        yield f"Take {arm} ({price}): every other arm is worse beyond the noise."
    else:
        yield f"No arm is as good as the best in every measure. By {main.name} alone, take {arm} ({price})."
    most = main.most_lost(arm)
    if arm != main.best and most is not None:
        yield f"{main.best} has the best mean {main.name}; {arm} may be worse than it by up to {most:.3g} (95%)."
    if worse:
        names = "; ".join(f"{other} ({', '.join(measures)})" for other, measures in worse.items())
        yield f"Worse than the best beyond the noise: {names}."


def _why_left_out(left_out: Mapping[str, str]) -> str:
    """The arms that were not compared, as a sentence."""
    return f" Not compared: {'; '.join(f'{arm} ({why})' for arm, why in left_out.items())}." if left_out else ""
