"""Random start values of a whole model."""

from __future__ import annotations

import torch

from hyla.layers.layer import initialize as fill_table
from hyla.models.parameters import model_parameters
from hyla.models.trunk import Model


def initialize(model: Model, seed: int, *, std: float | None = None) -> Model:
    """Draw every weight of an allocated, unpacked model anew, in place; returns the model.

    Start values and their order are those of `model_parameters`; std: of those that are Normal(0, std), from the config
    unless given. The same seed gives the same weights on every device: they are drawn on the CPU.
    """
    generator = torch.Generator().manual_seed(seed)
    fill_table(model, model_parameters(model.config), model.config.init_std if std is None else std, generator)
    return model
