"""Who watches the forwards of an engine: for measurements of its numerics (`hyla.align`). Serving has none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from hyla.engine.drafts.protocol import Part
from hyla.layers.protocol import LayerCache
from hyla.models.stack import Observer
from hyla.ops.batch import Batch


class StepObserver(Protocol):
    """Told of each step before and after its forward."""

    def begin(self, parts: Sequence[Part], batch: Batch, tokens: Sequence[int]) -> Observer | None:
        """A step is going to compute these rows; tokens: of each row, drafts included. What it returns is told of every
        sublayer, and the step then runs in Python; None: a recorded step may do."""
        ...

    def end(self, parts: Sequence[Part], batch: Batch, caches: Sequence[LayerCache], head_TD: torch.Tensor) -> None:
        """The rows are computed, and written to the caches [slots or pages, ...] of the trunk's mixers; nothing is
        committed or chosen yet. head_TD: what the head will read of each row. Caches may be changed in place, which is
        no longer exact."""
        ...
