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
        self._open: dict[Projection, list[str]] = {}
        """Products of which some rules were placed and some were not, with the weights that are views of a source."""

    def _of(self, rule: Rule) -> set[Projection]:
        return {projection for name in rule.ours for projection, _ in self._weights.projections.get(name, ())}

    @property
    def is_between(self) -> bool:
        """Whether every product was packed of which something was placed."""
        return not self._open

    def reads(self, name: str, tensor: torch.Tensor) -> bool:
        """Whether packing will read such a weight, which may be a view of a file until then, and keep nothing of it."""
        own = self._weights.projections.get(name, ())
        if not own or not all(projection.tiles(tensor) for projection, _ in own):
            return False
        self._open[own[0][0]].append(name)
        return True

    def before(self, rule: Rule) -> None:
        for projection in self._of(rule):
            self._open.setdefault(projection, [])
            projection.unpack()

    def after(self, rule: Rule) -> None:
        for projection in self._of(rule):
            self._left[projection] -= 1
            if not self._left[projection]:
                projection.pack()
                views = self._open.pop(projection)
                if not projection.is_packed:  # it has FP8 weights, too, and stays as it is
                    self._copy(views)

    def _copy(self, names: Iterable[str]) -> None:
        for name in names:
            for projection, place in self._weights.projections[name]:
                view = projection.parameters()[place].detach()
                self._weights.assign(name, view.clone(memory_format=torch.contiguous_format))
