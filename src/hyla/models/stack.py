"""A list of sublayers over one residual stream: the trunk's, and that of a multi-token prediction module."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from hyla.layers.carry import Carry
from hyla.layers.norms import RMSNorm
from hyla.layers.protocol import CacheSpec, ChannelMixer, LayerCache, Mixer
from hyla.models.build import build_module
from hyla.models.config import MIXER_KINDS, NormConfig, SublayerConfig
from hyla.models.residual import build_residual
from hyla.ops.batch import Batch
from hyla.ranges import named_range


@dataclass(frozen=True)
class Tap:
    """What one sublayer read and gave in one forward call, rows [T, D] each; part of the graph under autograd."""

    index: int
    """Place in the stack, from 0."""
    sublayer: Sublayer
    stream_TD: torch.Tensor
    """The residual stream before the sublayer."""
    normed_TD: torch.Tensor
    """What the module read."""
    output_TD: torch.Tensor
    """What the module gave, before it joins the stream."""
    result_TD: torch.Tensor
    """The residual stream after the sublayer."""


Observer = Callable[[Tap], None]
"""Told of each sublayer as it is computed: per-layer losses, statistics, differences between two models."""


def build_norm(config: NormConfig, dim: int) -> RMSNorm:
    """The norm of a config."""
    return RMSNorm(dim, eps=config.eps, zero_centered=config.zero_centered)


class Sublayer(nn.Module):
    """A norm, a mixer or channel mixer, and how its output joins the stream (`models.residual`)."""

    module: Mixer | ChannelMixer

    def __init__(self, config: SublayerConfig, hidden_dim: int):
        super().__init__()
        self.config = config
        self.is_mixer = config.module.kind in MIXER_KINDS
        self.norm = build_norm(config.norm, hidden_dim)
        self.module = build_module(config.module, hidden_dim)
        self.residual = build_residual(config.residual)
        self.is_recomputed = False
        """Whether the backward pass computes it once more, so that nothing between its ends is kept till then."""

    @property
    def mixer(self) -> Mixer:
        """The module of a sublayer that `is_mixer`."""
        return cast(Mixer, self.module)  # a kind whose config is a MixerConfig builds a mixer

    def forward(
        self,
        stream_TD: torch.Tensor,
        batch: Batch,
        cache: LayerCache | Carry | None,
        index: int = 0,
        observer: Observer | None = None,
    ) -> torch.Tensor:
        """The stream after this sublayer. index: its place, for the observer."""
        normed_TD = self.norm(self.residual.read(stream_TD))
        y_TD = self.module(normed_TD, batch, cache) if self.is_mixer else self.module(normed_TD)
        result_TD = self.residual.write(stream_TD, normed_TD, y_TD)
        if observer is not None:
            observer(Tap(index, self, stream_TD, normed_TD, y_TD, result_TD))
        return result_TD


def cache_specs_of(sublayers: Iterable[Sublayer]) -> tuple[CacheSpec, ...]:
    """What each mixer keeps, in stack order."""
    return tuple(sub.mixer.cache_spec() for sub in sublayers if sub.is_mixer)


def run(
    sublayers: Iterable[Sublayer],
    stream_TD: torch.Tensor,
    batch: Batch,
    caches: Sequence[LayerCache | Carry] | None,
    observer: Observer | None = None,
) -> torch.Tensor:
    """The stream [T, D] after all sublayers. caches: one per mixer, extended in place, or one carry per mixer; None:
    whole sequences."""
    remaining = iter(caches) if caches is not None else None
    for index, sublayer in enumerate(sublayers):
        cache = next(remaining) if remaining is not None and sublayer.is_mixer else None
        with named_range("sublayer", index, sublayer.config.module.kind):
            is_whole = cache is None or isinstance(cache, Carry)
            if sublayer.is_recomputed and is_whole and torch.is_grad_enabled():
                step = partial(sublayer, batch=batch, cache=cache, index=index, observer=observer)
                stream_TD = checkpoint(step, stream_TD, use_reentrant=False, preserve_rng_state=False)
            else:
                stream_TD = sublayer(stream_TD, batch, cache, index, observer)
    return stream_TD
