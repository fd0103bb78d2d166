"""Where a run's steps come from, and how many rows they have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from hyla.data.batch_sizes import BatchSizes
from hyla.data.mixture import Mixture
from hyla.data.packing import PackedRows, Packer, TokenStore
from hyla.train.config import TrainConfig


class StepSizes(Protocol):
    """Rows of steps, each a function of its number alone."""

    def of(self, step: int) -> int:
        """Rows of step `step` (from 0)."""
        ...

    def before(self, step: int) -> int:
        """Rows of all steps before `step`."""
        ...


class RowSource(Protocol):
    """Where steps come from: what a step reads is a function of its number alone."""

    @property
    def sizes(self) -> StepSizes:
        """How many rows they have."""
        ...

    def step(self, step: int) -> PackedRows:
        """The rows of optimizer step `step` (0-based)."""
        ...


def batch_sizes(config: TrainConfig) -> BatchSizes:
    """Rows of every step of a run."""
    if config.ramp is None:
        return BatchSizes(config.batch_tokens)
    return BatchSizes(config.batch_tokens, config.ramp.batch_tokens, config.ramp.steps)


def mixture_of(stores: Sequence[TokenStore], shares: Sequence[float], config: TrainConfig) -> Mixture:
    """The steps of several stores in fixed shares."""
    longest = config.document_rows
    return Mixture(stores, shares, batch_sizes(config), max_document_tokens=longest, seed=config.seed)


def packer_of(store: TokenStore, config: TrainConfig) -> Packer:
    """The steps of one store."""
    return Packer(store, batch_sizes(config), max_document_tokens=config.document_rows, seed=config.seed)
