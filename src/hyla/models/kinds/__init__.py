"""Every kind of mixer and channel mixer, registered once: what it builds, holds, keeps and costs.

A new one is an entry in one of the three files here; docs/adding-a-mixer.md shows it. No PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from hyla.models.config import ModuleConfig
from hyla.models.kinds.attention import ATTENTION
from hyla.models.kinds.channel_mixers import CHANNEL_MIXERS
from hyla.models.kinds.kind import Calibration, Kind
from hyla.models.kinds.recurrences import RECURRENCES
from hyla.models.kinds.work import Attention, Indexer, Latent, Recurrence

KINDS: Mapping[str, Kind] = MappingProxyType({kind.name: kind for kind in (*CHANNEL_MIXERS, *RECURRENCES, *ATTENTION)})
"""Every registration by the `kind` of its config, in the order of the calibration: earlier ones explain a part of what
later ones take."""

RECURRENT_OPERATORS = tuple(dict.fromkeys(kind.operator for kind in RECURRENCES))
"""The folders of `hyla.ops` that keep a state."""


def kind_of(config: ModuleConfig) -> Kind:
    """The registration of a module's config."""
    return KINDS[config.kind]


__all__ = [
    "KINDS",
    "RECURRENT_OPERATORS",
    "Attention",
    "Calibration",
    "Indexer",
    "Kind",
    "Latent",
    "Recurrence",
    "kind_of",
]
