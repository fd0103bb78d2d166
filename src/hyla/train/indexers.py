"""Lightning indexers of a model that is trained: who of them learns, and how."""

from __future__ import annotations

from hyla.errors import ConfigError
from hyla.layers.lesson import Lesson, Stage
from hyla.layers.sparse_mla import SparseMLA
from hyla.models.trunk import Model


def teach(model: Model, stage: Stage | None) -> Lesson | None:
    """Let a model's indexers learn from now on wherever gradients are taken, in place; None: no longer.

    Give the lesson to `Targets`. Raises ConfigError for a model without indexers.
    """
    lesson = None if stage is None else Lesson(stage)
    layers = [module for module in model.modules() if isinstance(module, SparseMLA)]
    if lesson is not None and not any(isinstance(sublayer.module, SparseMLA) for sublayer in model.sublayers):
        kinds = sorted({sublayer.config.module.kind for sublayer in model.sublayers})
        raise ConfigError(
            f"indexer.stage = {stage!r}, but the model has no sparse_mla sublayer, only {', '.join(kinds)}; "
            "leave it out"
        )
    for layer in layers:
        layer.lesson = lesson
    return lesson
