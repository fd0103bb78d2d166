"""What an adapter covers of a model, by kind of module: a target that reaches a twelfth of it should be seen."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from hyla.adapters.attached import Adapters
from hyla.adapters.targets import Place, places
from hyla.models.config import ModelConfig
from hyla.models.pattern import label


@dataclass(frozen=True)
class Coverage:
    """One kind of mixer or channel mixer, over all its layers; routed experts are a kind of their own."""

    kind: str
    """As people call it: KDA, softmax, MoE experts, ..."""
    num_adapted: int
    """Matrices that have a term; a stack of experts counts as one."""
    num_matrices: int
    """Matrices of products."""
    num_adapted_weights: int
    """Weights of the adapted matrices."""
    num_weights: int

    def __str__(self) -> str:
        share = self.num_adapted_weights / self.num_weights
        return f"{self.kind} {self.num_adapted} of {self.num_matrices} matrices ({share:.0%} of their weights)"


def coverage(config: ModelConfig, adapted: Collection[str]) -> list[Coverage]:
    """What some of our parameters are of a model, in the order of its layers. Kinds without any are listed, too."""
    chosen, found = set(adapted), {}
    for name, place in places(config).items():
        if place.row.product is None:
            continue
        counts = found.setdefault(_kind(place), [0, 0, 0, 0])
        is_adapted = name in chosen
        for at, number in enumerate((is_adapted, 1, is_adapted * place.row.numel, place.row.numel)):
            counts[at] += int(number)
    return [Coverage(kind, *counts) for kind, counts in found.items()]


def _kind(place: Place) -> str:
    return f"{label(place.kind)} experts" if place.is_expert else label(place.kind)


def report(adapters: Adapters) -> str:
    """One line for each kind, and what is trained: printed before a run."""
    lines = [str(line) for line in coverage(adapters.model.config, adapters.terms)]
    factors = sum(parameter.numel() for parameter in adapters.parameters())
    whole = sum(adapters.trainable()[name].numel() for name in adapters.whole)
    total = sum(parameter.numel() for parameter in adapters.model.parameters())
    trained = f"{factors:,} weights in terms" + (f", {whole:,} whole ({', '.join(adapters.whole)})" if whole else "")
    return "\n".join([*lines, f"trained: {trained}, beside {total:,} of the model"])
