"""What a model holds and keeps: parameters and cache bytes, per sublayer and as a whole."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

from torch import nn

from hyla.layers.protocol import CacheSpec, TensorSpec
from hyla.models.config import ModuleConfig, MoEConfig
from hyla.models.mtp import MTPModule
from hyla.models.pattern import compress, label
from hyla.models.stack import Sublayer
from hyla.models.trunk import Model

__all__ = [
    "Footprint",
    "Summary",
    "ablations",
    "compress",
    "count_parameters",
    "footprint",
    "footprint_of",
    "label",
    "summarize",
]


@dataclass(frozen=True)
class Footprint:
    """Parameters (norms included) and cache bytes of some sublayers. Footprints add up."""

    parameters: int = 0
    active: int = 0
    """Parameters that work on one token: of routed experts, those that it visits."""
    kv_bytes_per_token: int = 0
    """Cache bytes per token of the layers that see the whole context."""
    window_bytes: int = 0
    """Bytes per sequence of the layers that see a window: its keys and values, as published."""
    resident_kv_bytes_per_token: int = 0
    """Here, of all these layers: a page belongs to the whole stack, so windows keep theirs as well."""
    published_state_bytes: int = 0
    """Per sequence as others count it: one fp32 state per head."""
    published_conv_bytes: int = 0
    """Per sequence as others count it: the last K - 1 inputs of the short convolutions, in the model's dtype."""
    resident_state_bytes: int = 0
    """Per sequence here: the anchors, the rows of the open chunk and the convolutions' rings."""

    def __add__(self, other: Footprint) -> Footprint:
        names = [entry.name for entry in fields(self)]
        return Footprint(*(getattr(self, name) + getattr(other, name) for name in names))


def count_parameters(module: nn.Module) -> int:
    """Weights of a module on any device; shared ones count once."""
    return sum(parameter.numel() for parameter in module.parameters())


def footprint(sublayer: Sublayer) -> Footprint:
    """The footprint of one sublayer, its norm included."""
    total, config = count_parameters(sublayer), sublayer.config.module
    if not sublayer.is_mixer:
        return Footprint(total, total - _idle_parameters(sublayer))
    spec, details = sublayer.mixer.cache_spec(), config.model_dump()
    window = details.get("window")
    anchors = sum(tensor.nbytes for tensor in _of_role(spec, "anchor"))
    # A ring holds [rows, channels].
    inputs = sum(tensor.nbytes // tensor.shape[0] for tensor in _of_role(spec, "conv"))
    return Footprint(
        parameters=total,
        active=total,
        kv_bytes_per_token=0 if window else spec.bytes_per_token,
        window_bytes=spec.bytes_per_token * window if window else 0,
        resident_kv_bytes_per_token=spec.bytes_per_token,
        published_state_bytes=anchors,
        published_conv_bytes=inputs * (details.get("conv_len", 1) - 1),
        resident_state_bytes=spec.bytes_per_sequence,
    )


def footprint_of(sublayers: Iterable[Sublayer]) -> Footprint:
    """The sum over some sublayers."""
    return sum(map(footprint, sublayers), Footprint())


ABLATIONS = ("conv_len", "decay", "gate_activation", "negative_eigenvalues", "output_gate", "state_dtype")
"""Fields by which a mixer leaves what is published for its kind, where they have other values than their defaults."""


def ablations(config: ModuleConfig) -> dict[str, str | bool | int]:
    """The flags of ablations that a module has, by name; a convolution's length only where there is none."""
    used = config.later - config.unused_later()
    found = {name: getattr(config, name) for name in ABLATIONS if name in used}
    return ({"conv_len": 0} if getattr(config, "conv_len", None) == 0 else {}) | found


@dataclass(frozen=True)
class Summary:
    """A whole model. Multi-token prediction is counted apart, as published numbers leave it out."""

    stack: Footprint
    """The sublayers of the trunk."""
    total: int
    """Parameters of all of it without multi-token prediction; a tied head counts once."""
    active: int
    embedding: int
    """Parameters of the embedding, to subtract for the counts without it; of a tied one, none."""
    head: int
    mtp: tuple[Footprint, ...]


def summarize(model: Model) -> Summary:
    """Count a model, plain, on any device (the meta device is enough)."""
    stack = footprint_of(model.sublayers)
    mtp = tuple(_mtp_footprint(module) for module in model.mtp)
    total = count_parameters(model) - sum(module.parameters for module in mtp)
    embedding = 0 if model.config.tie_embeddings else model.embed.weight.numel()
    active = total - stack.parameters + stack.active
    return Summary(stack, total, active, embedding, model.head.weight.numel(), mtp)


def _mtp_footprint(module: MTPModule) -> Footprint:
    inner = footprint_of(module.sublayers)
    outside = count_parameters(module) - inner.parameters
    return inner + Footprint(parameters=outside, active=outside)


def _of_role(spec: CacheSpec, role: str) -> list[TensorSpec]:
    return [tensor for tensor in spec.slot_tensors if tensor.role == role]


def _idle_parameters(sublayer: Sublayer) -> int:
    """Weights of routed experts that one token does not visit."""
    config = sublayer.config.module
    if not isinstance(config, MoEConfig):
        return 0
    each = sum(row.numel // row.experts for row in sublayer.module.table if row.experts)
    return each * (config.num_experts - config.num_experts_per_token)
