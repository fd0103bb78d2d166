"""What a report must know of its study besides the results: the question, what was to be run, what others found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import log
from typing import Annotated, Literal, Protocol

from pydantic import Field, field_validator

from hyla.errors import ConfigError
from hyla.models.config import Config
from hyla.study.statistics import NoiseOf

Text = Annotated[str, Field(min_length=1)]


class Published(Config):
    """A published result beside which ours is put."""

    source: Text
    """Paper, section, table."""
    metric: Text
    """What its numbers are."""
    values: dict[str, float] = Field(default={})
    """By arm of this study."""
    better: Literal["lower", "higher"] = "lower"
    """Which of two values is the better one. Arms are put into pairs by it, and ours beside them."""
    text: str = ""
    """What was found, in a sentence."""
    order: tuple[str, ...] = ()
    """Claims without numbers: "kda >= gated_delta" (not worse), "kda > mamba2" (better); of one task alone,
    "palindrome: kda > mamba2"."""

    @field_validator("order")
    @classmethod
    def _is_read(cls, order: tuple[str, ...]) -> tuple[str, ...]:
        for claim in order:
            try:
                read_claim(claim)
            except ConfigError as error:
                raise ValueError(str(error)) from None
        return order


@dataclass(frozen=True)
class Claim:
    """One arm against another. is_strict: it was found to be better; otherwise, to be no worse. task: all, if None."""

    text: str
    better: str
    worse: str
    is_strict: bool
    task: str | None


def read_claim(text: str) -> Claim:
    """A line of `Published.order`. Raises ConfigError for what is none.

    >>> read_claim("stack: kda >= mamba2")
    Claim(text='stack: kda >= mamba2', better='kda', worse='mamba2', is_strict=False, task='stack')
    """
    # Arms may have a colon in their names ("3:1"), so a task ends with a colon and a space.
    task, colon, rest = text.partition(": ")
    if not colon:
        task, rest = "", text
    sign = ">=" if ">=" in rest else ">"
    better, found, worse = (part.strip() for part in rest.partition(sign))
    if not (found and better and worse):
        raise ConfigError(f"order has {text!r}; a claim is 'ARM > ARM' or 'ARM >= ARM', after 'TASK: ' if of one task")
    return Claim(text, better, worse, sign == ">", task.strip() or None)


def check_published(all_published: Iterable[Published], arms: Iterable[str]) -> None:
    """Raise ConfigError for a published result that speaks of an arm which the study does not have."""
    known = list(arms)
    for published in all_published:
        claims = [read_claim(text) for text in published.order]
        claimed = {arm for claim in claims for arm in (claim.better, claim.worse)} | set(published.values)
        if unknown := sorted(claimed - set(known)):
            raise ConfigError(
                f"published ({published.source}) names {unknown[0]!r}, and the arms are {', '.join(known)}"
            )


class RateSearch(Protocol):
    """What an arm's learning rates gave at one budget."""

    @property
    def arm(self) -> str: ...

    @property
    def budget(self) -> float:
        """FLOPs."""
        ...

    @property
    def bits(self) -> Mapping[float, float | None]:
        """By rate, bits per byte of the validation text; None: the run diverged."""
        ...

    @property
    def best(self) -> float: ...

    @property
    def is_at_edge(self) -> bool:
        """Whether the best one is the lowest or highest of those that were tried."""
        ...


@dataclass(frozen=True)
class About:
    """A study as its report sees it.

    arms: names in their order. reference: the arm that all others are compared with. budgets: FLOPs, rising. seeds: of
    the runs that count. sizes: how many there are at a budget (default: one). tuned: rates that were tried; an arm's
    place stands on the search whose budget is nearest. notes: what a reader has to know of the setting. learnt_at: mean
    share of right answers above which a task counts as learnt. is_ablation: arms are the reference with one change.
    noise: whose runs tell the noise of bits per byte (of tasks always the pair's: shares near 0 or 1 scatter less).
    """

    name: str
    question: str
    arms: tuple[str, ...]
    reference: str
    budgets: tuple[float, ...]
    seeds: tuple[int, ...]
    sizes: Mapping[float, int] = field(default_factory=dict)
    tuned: tuple[RateSearch, ...] = ()
    notes: str = ""
    learnt_at: float = 0.9
    published: tuple[Published, ...] = ()
    is_ablation: bool = False
    noise: NoiseOf = "pair"
    has_tuning: bool = False
    """Whether rates are chosen; none may be yet."""

    def __post_init__(self):
        if self.reference not in self.arms:
            raise ConfigError(f"the reference is {self.reference!r}, and the arms are {', '.join(self.arms)}")
        check_published(self.published, self.arms)

    def search(self, arm: str, budget: float) -> RateSearch | None:
        """What an arm's rate at a budget stands on; None: it was not tuned."""
        its = [search for search in self.tuned if search.arm == arm]
        return min(its, key=lambda search: abs(log(search.budget / budget)), default=None)
