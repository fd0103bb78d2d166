"""A list of sublayers over one residual stream: the trunk's, and that of a multi-token prediction module."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from hyla.layers.norms import RMSNorm
from hyla.layers.protocol import CacheSpec, LayerCache
from hyla.models.build import build_module
from hyla.models.config import MIXER_KINDS, NormConfig, SublayerConfig
from hyla.ops.batch import Batch
from hyla.ops.exact.primitives import wide


def build_norm(config: NormConfig, dim: int) -> RMSNorm:
    """The norm of a config."""
    return RMSNorm(dim, eps=config.eps, zero_centered=config.zero_centered)


class Sublayer(nn.Module):
    """x + module(norm(x)), or alpha norm(x) + beta module(norm(x)) with a scaled residual."""

    def __init__(self, config: SublayerConfig, hidden_dim: int):
        super().__init__()
        self.config = config
        self.is_mixer = config.module.kind in MIXER_KINDS
        self.norm = build_norm(config.norm, hidden_dim)
        self.module = build_module(config.module, hidden_dim)
        self.residual = config.residual

    def forward(self, x_TD: torch.Tensor, batch: Batch, cache: LayerCache | None) -> torch.Tensor:
        normed_TD = self.norm(x_TD)
        y_TD = self.module(normed_TD, batch, cache) if self.is_mixer else self.module(normed_TD)
        if self.residual is None:
            return x_TD + y_TD
        return (wide(normed_TD) * self.residual.alpha + wide(y_TD) * self.residual.beta).to(x_TD.dtype)


def cache_specs_of(sublayers: Iterable[Sublayer]) -> tuple[CacheSpec, ...]:
    """What each mixer keeps, in stack order."""
    return tuple(sub.module.cache_spec() for sub in sublayers if sub.is_mixer)


def run(
    sublayers: Iterable[Sublayer], x_TD: torch.Tensor, batch: Batch, caches: Sequence[LayerCache] | None
) -> torch.Tensor:
    """The stream [T, D] after all sublayers. caches: one per mixer, extended in place; None: whole sequences."""
    remaining = iter(caches) if caches is not None else None
    for sublayer in sublayers:
        cache = next(remaining) if remaining is not None and sublayer.is_mixer else None
        x_TD = sublayer(x_TD, batch, cache)
    return x_TD
