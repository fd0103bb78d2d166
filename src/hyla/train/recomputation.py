"""Which sublayers the backward pass computes once more."""

from __future__ import annotations

from hyla.errors import ConfigError
from hyla.models.kinds import KINDS
from hyla.models.trunk import Model
from hyla.train.config import RecomputeConfig


def recompute(model: Model, config: RecomputeConfig) -> None:
    """Mark the sublayers that the backward pass computes once more. Raises ConfigError for a kind that none has."""
    stacks = [model.sublayers, *(module.sublayers for module in model.mtp)]
    sublayers = [sublayer for stack in stacks for sublayer in stack]
    present = {sublayer.config.module.kind for sublayer in sublayers}
    wrong = next((kind for kind in config.kinds if kind != "all" and kind not in present), None)
    if wrong is not None:
        what = "no kind of sublayer" if wrong not in KINDS else "a kind that this model has not"
        raise ConfigError(f"recompute.kinds: {wrong!r} is {what}; choose of {', '.join(sorted(present))} or all")
    for sublayer in sublayers:
        sublayer.is_recomputed = "all" in config.kinds or sublayer.config.module.kind in config.kinds
