"""From a sublayer's config to its module."""

from __future__ import annotations

from hyla.layers.protocol import ChannelMixer, Mixer
from hyla.models.config import ModuleConfig
from hyla.models.kinds import kind_of


def build_module(config: ModuleConfig, hidden_dim: int) -> Mixer | ChannelMixer:
    """The module of a sublayer, its parameters not yet drawn."""
    kind = kind_of(config)
    return kind.layer_class(hidden_dim, **kind.arguments(config))
