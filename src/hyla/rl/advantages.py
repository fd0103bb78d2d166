"""From rewards to advantages: how much better a sample is than what was to be expected. Pure functions on floats.

A group is the samples of one prompt. None stands for a sample that was left out: it takes no part and stays None.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum, sqrt
from typing import Literal, get_args

from hyla.errors import ConfigError

AdvantageKind = Literal["group", "group_mean", "leave_one_out", "batch_mean", "none"]
Group = Sequence[float | None]


def advantages(rewards_of_groups: Sequence[Group], kind: AdvantageKind) -> list[list[float | None]]:
    """Advantages of a step's samples, float64, in the order and shape of their rewards. With r the rewards of a group:

    group          (r_i - mean(r)) / std(r), std over the group itself: sqrt(mean((r - mean(r))^2))
                   GRPO, arXiv 2402.03300, section 4.1.2
    group_mean     r_i - mean(r)
                   Dr. GRPO, arXiv 2503.20783: without the division, which weighs easy and hard prompts up
    leave_one_out  r_i - mean of the group's others
                   RLOO, arXiv 2402.14740; n / (n - 1) times group_mean
    batch_mean     r_i - mean over the samples of all groups
                   REINFORCE with a baseline (Williams 1992)
    none           r_i

    Where all rewards that are compared are equal, also where there is but one, every advantage is exactly 0 ("none"
    apart). Sums are exact before they are rounded: the order of a group's samples changes no bit.
    Raises ConfigError for another kind.
    """
    if kind not in get_args(AdvantageKind):
        raise ConfigError(f"advantages {kind!r} are unknown; choose one of {', '.join(get_args(AdvantageKind))}")
    groups = [list(group) for group in rewards_of_groups]
    if kind == "none":
        return groups
    if kind == "batch_mean":
        flat = iter(_centred([reward for group in groups for reward in group]))
        return [[next(flat) for _ in group] for group in groups]
    of_one = {"group": _normalised, "group_mean": _centred, "leave_one_out": _left_out}[kind]
    return [of_one(group) for group in groups]


def is_equal(group: Group) -> bool:
    """Whether the group's rewards are all the same, or fewer than two: nothing in it is better than the rest, so that
    its advantages within the group are 0. DAPO draws other prompts in their place (arXiv 2503.14476, eq. 11)."""
    return len({reward for reward in group if reward is not None}) < 2


def _centred(group: Group) -> list[float | None]:
    if is_equal(group):
        return _zeros(group)
    present = [reward for reward in group if reward is not None]
    mean = fsum(present) / len(present)
    return [None if reward is None else reward - mean for reward in group]


def _normalised(group: Group) -> list[float | None]:
    deviations = _centred(group)
    present = [deviation for deviation in deviations if deviation is not None]
    largest = max(map(abs, present), default=0.0)
    if not largest:
        return deviations
    # Divided first: the square of a small deviation could be 0.
    std = sqrt(fsum((deviation / largest) ** 2 for deviation in present) / len(present))
    return [None if deviation is None else deviation / largest / std for deviation in deviations]


def _left_out(group: Group) -> list[float | None]:
    if is_equal(group):
        return _zeros(group)
    found: list[float | None] = []
    for place, reward in enumerate(group):
        others = [other for other in [*group[:place], *group[place + 1 :]] if other is not None]
        found.append(None if reward is None else reward - fsum(others) / len(others))
    return found


def _zeros(group: Group) -> list[float | None]:
    return [None if reward is None else 0.0 for reward in group]
