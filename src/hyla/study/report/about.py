"""What a report must know of its study besides the results: the question, what was to be run, what others found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field, field_validator

from hyla.errors import ConfigError
from hyla.models.config import Config

Text = Annotated[str, Field(min_length=1)]


class Published(Config):
    """A published result beside which ours is put."""

    text: Text
    """What was found, in a sentence."""
    source: Text
    """Where it stands: a report and its table or section."""
    measure: Text = "loss"
    """What the numbers of `rows` are."""
    rows: tuple[tuple[str, float], ...] = ()
    """(arm, number), arms by the study's names."""
    order: tuple[str, ...] = ()
    """Claims that this study can agree or disagree with: "kda >= gated_delta" (not worse), "kda > mamba2" (better), and
    of one task, "palindrome: kda > mamba2"."""

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


@dataclass(frozen=True)
class About:
    """A study as its report sees it.

    arms: names in their order. reference: the arm that all others are compared with. budgets: FLOPs, rising. seeds: of
    the runs that count. rates: the grid. chosen: the rate of an arm at a budget where the study says it; elsewhere the
    one with the lowest validation bits over the seeds that all rates have. is_ablation: every arm is the reference with
    one change.
    """

    name: str
    question: str
    arms: tuple[str, ...]
    reference: str
    budgets: tuple[float, ...]
    seeds: tuple[int, ...]
    rates: tuple[float, ...]
    chosen: Mapping[tuple[str, float], float] = field(default_factory=dict)
    published: tuple[Published, ...] = ()
    is_ablation: bool = False

    def __post_init__(self):
        if self.reference not in self.arms:
            raise ConfigError(f"the reference is {self.reference!r}, and the arms are {', '.join(self.arms)}")
        for published in self.published:
            claims = [read_claim(text) for text in published.order]
            named = {arm for claim in claims for arm in (claim.better, claim.worse)} | {
                arm for arm, _ in published.rows
            }
            if unknown := sorted(named - set(self.arms)):
                raise ConfigError(
                    f"published ({published.source}) names {unknown[0]!r}, and the arms are {', '.join(self.arms)}"
                )
