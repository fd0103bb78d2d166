"""Faults that are put into an engine on purpose, which a cell must see."""

from __future__ import annotations

import torch

from hyla.engine import Engine
from hyla.layers.protocol import CacheSpec


def nudge(engine: Engine, role: str) -> None:
    """Every number of the first layer's tensors of a role one ulp of the model's dtype up."""
    spec: CacheSpec = engine.cache.specs[0]
    dtype = engine.model.dtype
    for tensor in (*spec.page_tensors, *spec.slot_tensors):
        if tensor.role == role:
            stored = engine.cache.layers[0][tensor.name]
            above = torch.nextafter(stored.to(dtype), torch.full((), float("inf"), dtype=dtype))
            stored.copy_(above)
