"""What the rest of the package knows about one kind of mixer or channel mixer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any

from hyla.layers.parameters import Table
from hyla.models.config import MixerConfig, ModuleConfig
from hyla.models.kinds.arguments import fields
from hyla.models.kinds.work import Attention, Recurrence


@dataclass(frozen=True)
class Calibration:
    """At which sizes `hyla cost --calibrate` times a kind on this machine."""

    sizes: tuple[ModuleConfig, ...]
    """Configs from small to large: a prompt is read by the last one, a token is decoded by each."""
    prompts: tuple[int, ...] = (128, 1024)
    """Lengths of the prompts in tokens."""


@dataclass(frozen=True)
class Kind:
    """One registration: the config class, the layer that it builds, and what both cost.

    Everything is data without PyTorch. Who reads it: `models.build` (the layer), `hyla.cost` (parameters, memory, work,
    rates, training, calibration), `hyla inspect` (the label).
    """

    config: type[ModuleConfig]
    layer: str
    """The layer's class, "module:name"; imported when one is built."""
    label: str
    """What people call it, in tables."""
    operator: str
    """What its time goes to beside its projections: a folder of `hyla.ops`, or "projection", "experts", "attention"."""
    table: Callable[..., Table]
    """The layer's parameters: (hidden_dim, **sizes) -> rows."""
    sizes: Callable[[Any], dict]
    """The table's keyword arguments from a config."""
    arguments: Callable[[Any], dict] = fields
    """The layer's keyword arguments from a config; unless given, the config's fields."""
    work: Callable[[Any], Recurrence | Attention] | None = None
    """What the operator works on, from a config; None: a channel mixer."""
    calibration: Calibration | None = None
    """None: it is not timed, and runs at the rates of its operator in other kinds."""

    @property
    def name(self) -> str:
        """Its `kind` in configs."""
        return self.config.model_fields["kind"].default

    @property
    def is_mixer(self) -> bool:
        """Whether it moves information along the sequence."""
        return issubclass(self.config, MixerConfig)

    def parameters(self, config: ModuleConfig, hidden_dim: int) -> Table:
        """The parameters of one module, named relative to it."""
        return self.table(hidden_dim, **self.sizes(config))

    @cached_property
    def layer_class(self) -> Callable[..., Any]:
        """The layer's class. Imports it, and with it PyTorch."""
        module, _, name = self.layer.partition(":")
        return getattr(import_module(module), name)
