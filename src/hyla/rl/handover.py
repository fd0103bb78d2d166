"""From the trainer's model to the engine's: the numbers that changed, in place."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from hyla.adapters import Adapters
from hyla.engine import Engine
from hyla.models.state import NamedWeights
from hyla.models.trunk import Model


class HandOver:
    """Gives an engine the weights of a model of the same config and dtype that is being trained beside it.

    names: the weights that change; terms of adapters are shared once, by `share`, and change by themselves.
    """

    def __init__(self, source: Model, engine: Engine, names: Iterable[str]):
        self.source, self.engine = source, engine
        self._from, self._to = NamedWeights(source), NamedWeights(engine.model)
        changed = set(names)
        self._alone = [name for name in self._to.shapes if name in changed and name not in self._to.projections]
        places = (place for name in changed for place in self._to.projections.get(name, ()))
        products = {id(projection): projection for projection, _ in places}.values()
        self._products = [(projection, self._to.names_of(projection)) for projection in products]

    def share(self, adapters: Adapters) -> None:
        """Let the engine's products read the very terms that are trained."""
        for name, term in adapters.terms.items():
            for projection, place in self._to.projections[name]:
                projection.adapt(place, term)

    @torch.no_grad()
    def __call__(self) -> None:
        """Hand everything over, and forget what the engine has cached. No request may be running."""
        for name in self._alone:
            self._to.copy(name, self._from.read(name))
        for projection, names in self._products:
            projection.renew([self._from.read(name) for name in names])
        self.engine.forget_cached()
        self.engine.weights_version += 1
