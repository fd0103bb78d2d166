"""Parameters and weight bytes of whole models, by arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from hyla.cost.inventory import element_bytes, inventory
from hyla.models.config import ModelConfig, MTPConfig, SublayerConfig


@dataclass(frozen=True)
class ParameterCount:
    """A whole model. Multi-token prediction is counted apart, as published numbers leave it out."""

    total: int
    active: int
    """That work on one token."""
    embedding: int
    """To subtract for counts without it; of a tied one, none."""
    head: int
    by_kind: dict[str, int]
    """All parameters of the sublayers of a kind, their norms included."""
    active_by_kind: dict[str, int]
    mtp: int
    """Of the multi-token prediction modules, beside `total`."""

    @property
    def without_embeddings(self) -> int:
        """Without the embedding and without the head."""
        return self.total - self.embedding - self.head

    @property
    def active_without_embeddings(self) -> int:
        return self.active - self.embedding - self.head


def count_parameters(config: ModelConfig) -> ParameterCount:
    """Count a model from its config."""
    found = [(sub.module.kind, inventory(sub, config.hidden_dim)) for sub in config.sublayers]
    kinds = dict.fromkeys(kind for kind, _ in found)
    by_kind = {kind: sum(each.parameters for name, each in found if name == kind) for kind in kinds}
    active_by_kind = {kind: sum(each.active for name, each in found if name == kind) for kind in kinds}
    table = config.vocab_size * config.hidden_dim
    embedding = 0 if config.tie_embeddings else table
    outside = embedding + table + config.hidden_dim
    return ParameterCount(
        total=outside + sum(by_kind.values()),
        active=outside + sum(active_by_kind.values()),
        embedding=embedding,
        head=table,
        by_kind=by_kind,
        active_by_kind=active_by_kind,
        mtp=sum(_mtp_parameters(mtp, config) for mtp in config.mtp),
    )


def _mtp_parameters(mtp: MTPConfig, config: ModelConfig) -> int:
    hidden, table = config.hidden_dim, config.vocab_size * config.hidden_dim
    inside = sum(inventory(sub, hidden).parameters for sub in mtp.sublayers)
    return inside + 2 * hidden * hidden + 3 * hidden + table * (mtp.has_own_embedding + mtp.has_own_head)


def weight_bytes(config: ModelConfig, dtype: str) -> float:
    """All weights without multi-token prediction. Embedding, head and norms stay in 16 bits beside fp8 and int4."""
    table = config.vocab_size * config.hidden_dim * (1 if config.tie_embeddings else 2)
    outside = (table + config.hidden_dim) * element_bytes(dtype)
    return outside + sum(inventory(sub, config.hidden_dim).nbytes(dtype) for sub in config.sublayers)


class _Stack:
    """A tuple of sublayers that is hashed by its identity: hashing hundreds of configs takes longer than the sums."""

    def __init__(self, sublayers: tuple[SublayerConfig, ...]):
        self.sublayers = sublayers

    def __hash__(self) -> int:
        return id(self.sublayers)

    def __eq__(self, other) -> bool:
        return isinstance(other, _Stack) and self.sublayers is other.sublayers


def distinct(sublayers: tuple[SublayerConfig, ...]) -> dict[SublayerConfig, int]:
    """How often each different sublayer config stands in a stack: the arithmetic is done once for each.

    Lightning layers differ in their place, which costs nothing: all count as the first one.
    """
    return _distinct(_Stack(sublayers))


@lru_cache(maxsize=64)
def _distinct(stack: _Stack) -> dict[SublayerConfig, int]:
    counts: dict[SublayerConfig, int] = {}
    for sublayer in stack.sublayers:
        if sublayer.module.kind == "lightning":
            sublayer = sublayer.model_copy(update={"module": sublayer.module.model_copy(update={"layer": 0})})
        counts[sublayer] = counts.get(sublayer, 0) + 1
    return counts
