"""The recommendation of a study: the cheapest arm that is not worse than the best beyond the noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hyla.study.statistics.comparison import Comparison


@dataclass(frozen=True)
class Cost:
    """What an arm costs to serve at one context length: bytes of cache of a sequence, milliseconds of a token (None:
    not timed)."""

    cache_bytes: float
    ms_per_token: float | None = None


@dataclass(frozen=True)
class Recommendation:
    """arm: the recommended one, None where no arm could be judged. best: the arm with the best mean of the first measure.
    tied: arms that are inside the noise of the best in every measure, the cheapest first.
    worse: arm -> measures in which it is worse than that measure's best beyond the noise.
    left_out: arm -> why it was not compared.
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
    """From the comparisons of all pairs of each measure (by its name, the main one first).

    left_out: arm -> why it was not compared (an invalid row), to be said in the words.
    """
    raise NotImplementedError
