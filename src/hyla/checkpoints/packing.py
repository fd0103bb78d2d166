"""Packing a model's products while its weights come in, each after the last rule that it needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import torch

from hyla.layers.linear import Projection
from hyla.models.formats.names import Rule
from hyla.models.state import NamedWeights


class Packing:
    """Unpacks what a rule is about to replace, and packs each projection after its last rule."""

    def __init__(self, weights: NamedWeights, rules: Iterable[Rule]):
        self._weights = weights
        self._left = Counter(projection for rule in rules for projection in self._of(rule))
        self._open: set[Projection] = set()
        """Products of which some rules were placed and some were not."""

    def _of(self, rule: Rule) -> set[Projection]:
        return {projection for name in rule.ours for projection, _ in self._weights.projections.get(name, ())}

    @property
    def is_between(self) -> bool:
        """Whether every product was packed of which something was placed."""
        return not self._open

    def reads(self, name: str, tensor: torch.Tensor) -> bool:
        """Whether packing reads such a weight once and keeps nothing of its memory: until then it may be a file's."""
        own = self._weights.projections.get(name, ())
        return bool(own) and all(projection.tiles(tensor) for projection, _ in own)

    def before(self, rule: Rule) -> None:
        for projection in self._of(rule):
            self._open.add(projection)
            projection.unpack()

    def after(self, rule: Rule) -> None:
        for projection in self._of(rule):
            self._left[projection] -= 1
            if not self._left[projection]:
                projection.pack()
                self._open.remove(projection)
