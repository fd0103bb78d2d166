"""How many rows a step reads, and how many all steps before it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BatchSizes:
    """`tokens` rows a step, after a straight rise from `first_tokens` over `ramp_steps` steps. Closed formulas: what a
    step reads depends on nothing that was computed before it.

    >>> sizes = BatchSizes(100, first_tokens=40, ramp_steps=3)
    >>> [sizes.of(step) for step in range(5)], [sizes.before(step) for step in range(5)]
    ([40, 60, 80, 100, 100], [0, 40, 100, 180, 280])
    """

    tokens: int
    first_tokens: int = 0
    ramp_steps: int = 0

    def of(self, step: int) -> int:
        """Rows of step `step` (from 0)."""
        if step >= self.ramp_steps:
            return self.tokens
        return self.first_tokens + (self.tokens - self.first_tokens) * step // self.ramp_steps

    def before(self, step: int) -> int:
        """Rows of all steps before `step`."""
        risen = sum(self.of(each) for each in range(min(step, self.ramp_steps)))
        return risen + self.tokens * max(0, step - self.ramp_steps)
