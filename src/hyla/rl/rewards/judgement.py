"""What is said of one sample: a reward, or why there is none."""

from __future__ import annotations

import math
from typing import NamedTuple

from hyla.terminal_text import escaped, shortened

MOST_REWARD = 1e30
"""Rewards are within plus and minus this, so that no sum or square of them is infinite."""
MOST_PROBLEM_CHARS = 400


class Judgement(NamedTuple):
    """Exactly one of both is None."""

    reward: float | None
    """Finite, the higher the better."""
    problem: str | None
    """One line that names what happened, without characters that command a terminal."""


def judged(reward: float) -> Judgement:
    """A number as a reward; one that cannot be is a problem."""
    if not math.isfinite(reward):
        return failed(f"returned {reward}")
    if abs(reward) > MOST_REWARD:
        return failed(f"returned {reward:g}; a reward is within {MOST_REWARD:g} of zero")
    return Judgement(reward, None)


def failed(problem: str) -> Judgement:
    """problem: any text."""
    return Judgement(None, escaped(shortened(" ".join(problem.split()), MOST_PROBLEM_CHARS), keep=""))
