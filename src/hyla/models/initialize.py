"""Random start values of a whole model."""

from __future__ import annotations

import torch
from torch import nn

from hyla.layers.norms import RMSNorm
from hyla.models.trunk import Model


@torch.no_grad()
def initialize(model: Model, seed: int, *, std: float | None = None) -> Model:
    """Draw every weight of an allocated, unpacked model anew, in place; returns the model.

    Embedding and head: Normal(0, std), std from the config unless given. Norms: scale one (a stored zero where they
    are zero-centred). Everything else: the module's own `initialize`. The same seed gives the same weights.
    """
    std = model.config.init_std if std is None else std
    generator = torch.Generator(device=model.device).manual_seed(seed)
    nn.init.normal_(model.embed.weight, std=std, generator=generator)
    if not model.config.tie_embeddings:
        nn.init.normal_(model.head.weight, std=std, generator=generator)
    for sublayer in model.sublayers:
        sublayer.module.initialize(std, generator)
    for mtp in model.mtp:
        mtp.initialize(std, generator)
    for module in model.modules():
        if isinstance(module, RMSNorm):
            nn.init.constant_(module.weight, 0.0 if module.zero_centered else 1.0)
    return model
