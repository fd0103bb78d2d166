"""From the trainer's model to the engine's: the numbers that changed, in place, in this process or another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from hyla.adapters import Adapters
from hyla.engine import Engine
from hyla.engine.fingerprint import weights_digest
from hyla.engine.hosting.handed import HandedMemory, HandedWeights
from hyla.engine.renewal import Renewal, put_terms
from hyla.errors import HylaError
from hyla.models.state import NamedWeights
from hyla.models.trunk import Model
from hyla.ops.weights import LowRank
from hyla.rl.engine_process import RolloutProcess


class HandsOver(Protocol):
    """Gives an engine the weights of a model of the same config and dtype that is being trained."""

    def share(self, adapters: Adapters) -> None:
        """Let the engine's products compute with the terms that are trained, too."""
        ...

    def __call__(self) -> None:
        """Hand over what changed, and let the engine forget what it has cached. No request may be running."""
        ...


class HandOver:
    """To an engine in this process.

    names: the weights that change; terms of adapters are shared once, by `share`, and change by themselves.
    """

    def __init__(self, source: Model, engine: Engine, names: Iterable[str]):
        self.engine, self._from = engine, NamedWeights(source)
        self._renew = Renewal(engine.model, names)

    def share(self, adapters: Adapters) -> None:
        """Let the engine's products read the very terms that are trained."""
        put_terms(self.engine.model, adapters.terms)

    def __call__(self) -> None:
        self._renew(self._from.read)
        self.engine.forget_cached()
        self.engine.weights_version += 1


class ProcessHandOver:
    """To an engine in a process of its own, through memory that both see. A process that has just begun gets the whole
    model; then only what changes. Each time both sides say what they have, by its digest.

    names: the weights that change. The memory for them is kept, a copy of theirs; that for the whole model is not.
    """

    def __init__(self, source: Model, engine: RolloutProcess, names: Iterable[str]):
        self.engine, self._from = engine, NamedWeights(source)
        self._reads = Renewal(source, names).reads
        self._terms: Mapping[str, LowRank] = {}
        self._memory: HandedMemory | None = None
        self._is_begun = False
        engine.on_restart = self._give_all

    def share(self, adapters: Adapters) -> None:
        self._terms = adapters.terms

    def __call__(self) -> None:
        self.engine.weights_version += 1
        self.engine.renewed(self._give_changed if self._is_begun else self._give_all)
        self._is_begun = True

    def _give_changed(self) -> None:
        """What changed, to an engine that has the version before."""
        weights, version = self._read(self._reads), self.engine.weights_version
        if self._memory is None:
            self._memory = HandedMemory(weights, self._terms)
        self._give(self._memory.fill(weights, version=version, follows=version - 1))

    def _give_all(self) -> None:
        """The whole model as it is now, which is the version of the round."""
        weights = self._read(self._from.shapes)
        memory = HandedMemory(weights, self._terms)
        try:
            self._give(memory.fill(weights, version=self.engine.weights_version, follows=None))
        finally:
            memory.close()

    def _read(self, names: Iterable[str]):
        return {name: self._from.read(name) for name in names}

    def _give(self, handed: HandedWeights) -> None:
        """Send the word, and compare what both have then. Raises HylaError that names both where it differs."""
        answer = self.engine.process.renew_weights(handed)
        ours = weights_digest(self._from.model, set(handed.weights), set(handed.terms))
        theirs = answer.result()["digest"]
        if theirs != ours:
            raise HylaError(
                f"after hand-over {handed.version} the engine's process has weights with the digest {theirs:.16} "
                f"and the trainer has {ours:.16}; its answers would not be this model's"
            )
