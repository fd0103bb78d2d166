"""Prompt lookup: what followed the last tokens when they occurred before is likely to follow again.

Source: Saxena, "Prompt Lookup Decoding" (2023); the same idea as LLMA, arXiv 2304.04487.
"""

from __future__ import annotations

import torch

from hyla.engine.drafts.protocol import Part
from hyla.engine.generation import Generation
from hyla.engine.sampling.acceptance import Draft
from hyla.ops.batch import Batch

NGRAMS = (6, 3)
"""Lengths of the ends that are looked up, the longest first. Shorter ones occur by chance too often."""


class _Index:
    """Where each n-gram of a growing list of tokens ended last, its newest occurrence excepted."""

    def __init__(self):
        self._ends: dict[int, dict[tuple[int, ...], int]] = {n: {} for n in NGRAMS}
        self._num_indexed = 0

    def continuation(self, tokens: list[int]) -> int | None:
        """Index of the token that followed the present end before; None when the end is new."""
        for end in range(self._num_indexed, len(tokens)):
            for n, ends in self._ends.items():
                if end >= n:
                    ends[tuple(tokens[end - n : end])] = end
        self._num_indexed = max(self._num_indexed, len(tokens))
        for n, ends in self._ends.items():
            found = ends.get(tuple(tokens[-n:])) if len(tokens) >= n else None
            if found is not None:
                return found
        return None


class LookupDrafter:
    """A `Drafter` for every model: it needs no weights.

    Nothing is sampled here, so a draft is accepted when it equals the target's sample, which happens with probability
    p(draft); otherwise that sample is one of p without the draft. For a certain draft this is the classical rule.
    """

    def __init__(self, max_drafts: int):
        self.max_drafts = max_drafts
        self._indexes: dict[Generation, _Index] = {}

    def available(self, generation: Generation) -> int:
        index = self._indexes.setdefault(generation, _Index())
        place = index.continuation(generation.tokens)
        return 0 if place is None else min(self.max_drafts, len(generation.tokens) - place)

    def propose(self, parts: list[Part]) -> None:
        for part in parts:
            tokens = part.generation.tokens
            place = self._indexes.setdefault(part.generation, _Index()).continuation(tokens)
            if place is not None:
                part.drafts = [Draft(token) for token in tokens[place : place + part.num_drafts]]

    def observe(self, parts: list[Part], batch: Batch, next_TD: torch.Tensor) -> None:
        """Nothing to learn from the hidden states."""

    def forget(self, generation: Generation) -> None:
        self._indexes.pop(generation, None)
