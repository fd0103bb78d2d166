"""Which operators a model computes with, and by which backends."""

from __future__ import annotations

import torch

from hyla.models.trunk import Model
from hyla.ops import backends

EVERYWHERE = ("exact.primitives",)
"""Operators that norms, activations and gates of every model use."""


def operators_of(model: Model) -> tuple[str, ...]:
    """The operators of the trunk and the multi-token prediction modules, without running them."""
    sublayers = [*model.sublayers, *(sublayer for module in model.mtp for sublayer in module.sublayers)]
    return tuple(sorted({*EVERYWHERE, *(name for sublayer in sublayers for name in sublayer.module.operators)}))


def backends_of(model: Model, device: torch.device | None = None) -> dict[str, dict]:
    """By operator, as plain data: {"backend": name, "not": {backend: why not}}. device: None for the model's own."""
    return backends.report(operators_of(model), model.device if device is None else device, model.dtype)
