"""What a drafter is. A draft is accepted exactly when it equals the token that the model itself chooses there, so
drafts change how fast an answer comes, never what it is. Where the engine is asked for it, drafts are sampled and
accepted by the classical rule instead (`engine.sampling.acceptance`), which keeps what an answer is drawn from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch

from hyla.engine.generation import Generation
from hyla.engine.sampling.acceptance import Draft
from hyla.engine.sampling.together import Row
from hyla.ops.batch import Batch


@dataclass(eq=False)
class Part:
    """One generation's share of a step."""

    generation: Generation
    num_known: int
    """Its next tokens that are certain: a piece of the prompt, or the last chosen one."""
    num_drafts: int = 0
    """Rows that are planned for drafts after them."""
    drafts: list[Draft] = field(default_factory=list)
    cut: Draft | None = None
    """The draft after those, where it was found that it cannot be chosen. It has no row, and is rejected by the rule
    that also finds the token in its place."""

    @property
    def is_last(self) -> bool:
        """Whether the known tokens reach the end of what is known, so that a token is chosen."""
        return self.num_known == self.generation.num_pending

    def cut_off(self) -> None:
        """Give up the drafts that cannot be chosen."""
        count = 0
        with self.generation.alone():
            count = self.generation.chooser.num_allowed([draft.token for draft in self.drafts])
        self.drafts, rest = self.drafts[:count], self.drafts[count:]
        self.cut = rest[0] if rest else None

    def draft_of(self, row: int) -> Draft | None:
        """The draft of the token that comes after `row` drafts."""
        return self.drafts[row] if row < len(self.drafts) else self.cut

    def free_rows(self) -> list[Row | None]:
        """Of the last known token and of each draft: what is asked of the row, where it can be done with others at
        once; None where it cannot."""
        generation, count = self.generation, len(self.drafts) + 1
        if not generation.chooser.is_free:
            return [None] * count
        first = len(generation.tokens)
        if count == 1 and self.cut is None:
            return [generation.chooser.row(first)]
        drafts = [self.draft_of(row) for row in range(count)]
        return [
            generation.chooser.row(first + row) if draft is None or draft.source is None else None
            for row, draft in enumerate(drafts)
        ]


class Drafter(Protocol):
    """Guesses tokens. Everything that it remembers of a generation is forgotten in `forget`."""

    def available(self, generation: Generation) -> int:
        """How many drafts it could give now."""
        ...

    def propose(self, parts: list[Part]) -> None:
        """Fill `drafts` of the parts, each with at most its `num_drafts`. Their pages are reserved."""
        ...

    def observe(self, parts: list[Part], batch: Batch, next_TD: torch.Tensor) -> None:
        """A step is over: its rows are committed, its tokens chosen. next: `Hidden.next_TD` of all its rows."""
        ...

    def forget(self, generation: Generation) -> None:
        """The generation ended or lost its place in the cache."""
        ...
