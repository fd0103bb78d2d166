"""Other numbers for the weights of a model that an engine computes with: in place, the changed ones alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch

from hyla.models.state import NamedWeights
from hyla.models.trunk import Model
from hyla.ops.weights import LowRank


class Renewal:
    """Overwrites the named weights of a model, plain or packed, which keep their storage.

    names: what changes. A product's weights lie in one block, so the others of a changed one are read again, too.
    """

    def __init__(self, model: Model, names: Iterable[str]):
        self._weights, changed = NamedWeights(model), set(names)
        projections = self._weights.projections
        self._alone = [name for name in self._weights.shapes if name in changed and name not in projections]
        products = {id(found): found for name in changed for found, _ in projections.get(name, ())}.values()
        self._products = [(projection, self._weights.names_of(projection)) for projection in products]

    @property
    def reads(self) -> tuple[str, ...]:
        """The weights that it asks for, in the model's order."""
        wanted = {name for _, names in self._products for name in names}.union(self._alone)
        return tuple(name for name in self._weights.shapes if name in wanted)

    @torch.no_grad()
    def __call__(self, read: Callable[[str], torch.Tensor]) -> None:
        """Take every number that changes from `read`, which gives plain tensors by the weight's name; they are copied.

        Nothing may be computed meanwhile, and what was cached is stale afterwards.
        """
        for name in self._alone:
            self._weights.copy(name, read(name))
        for projection, names in self._products:
            projection.renew([read(name) for name in names])


def put_terms(model: Model, terms: Mapping[str, LowRank]) -> None:
    """Let the products of a model compute with these low-rank terms, by the names of the weights beside which they are,
    instead of the ones that are there."""
    projections = NamedWeights(model).projections
    for name, term in terms.items():
        for projection, place in projections[name]:
            projection.adapt(place, term)
