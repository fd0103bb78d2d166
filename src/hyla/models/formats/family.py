"""A family: how a published format becomes a `ModelConfig` and names, and back. Data, not code paths.

`config.json` is read through a pydantic schema (`Published`): its fields are the HANDLED keys, `IGNORED` maps every key
that is left out to its reason, and any other key that asks for something is a `ConfigError`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Generic, Protocol, TypeVar

from hyla.errors import ConfigError
from hyla.models.config import ModelConfig, SublayerConfig
from hyla.models.formats.ignored import COMMON_IGNORED, writers_reason
from hyla.models.formats.modules import other_layout
from hyla.models.formats.mtp_names import MTPNames
from hyla.models.formats.names import TRUNK, Rule
from hyla.models.formats.published import normalize_rope

Keys = TypeVar("Keys")
Read = TypeVar("Read", covariant=True)

Suits = Callable[[Sequence[Rule]], int]
"""How well the bound rules of a block suit."""
Choose = Callable[[Sequence[Sequence[Rule]]], Sequence[Rule]]
"""One of the layouts of a block."""

AROUND = re.compile(r"^(?:base_model\.model\.|module\.|_orig_mod\.)+")
"""Before a tensor's name: PEFT, data parallelism and torch.compile."""
INSIDE = re.compile(r"\b(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|base_layer)\.")
"""Anywhere in it: torch.compile, sharding, checkpointing, and PEFT around a layer."""

logger = logging.getLogger("hyla.models")


class Schema(Protocol[Read]):
    """What reads config.json: a subclass of `Published`, or whatever else knows its keys."""

    def keys(self) -> set[str]:
        """Every accepted spelling."""
        ...

    def read(self, family: str, keys: Mapping) -> Read:
        """Validate; a ConfigError names the first wrong key, its value and what it should be."""
        ...


@dataclass(frozen=True)
class Family(Generic[Keys]):
    """One published format. Its file is `families/<name>.py`."""

    name: str
    """What a `ModelConfig.family` says; the `model_type` that it writes, unless that is given."""
    schema: Schema[Keys]
    """The HANDLED keys of config.json, with types, defaults and the values that Hyla can run."""
    from_published: Callable[[Keys], ModelConfig]
    """From what `schema` read."""
    to_published: Callable[[ModelConfig], dict]
    architecture: str
    """The class name that other libraries expect in `architectures`."""
    names: Mapping[str, tuple[Rule, ...]]
    """Rules by sublayer kind; published names relative to `layer_prefix`, ours to the sublayer's module. Experts are
    written so, and read in `modules.other_layout` as well."""
    layer_norms: tuple[str, ...] = ("input_layernorm.weight", "post_attention_layernorm.weight")
    """The norms before the sublayers of one published layer; their number is the sublayers per layer."""
    layer_prefix: str = "model.layers.{}."
    trunk: tuple[Rule, ...] = TRUNK
    mtp: MTPNames | None = None
    """Names of the multi-token prediction modules; None: the format has none."""
    aliases: tuple[tuple[str, str], ...] = ()
    """(pattern, replacement): other published spellings of a tensor name, turned into the one we write."""
    model_types: tuple[str, ...] = ()
    """Other `model_type`s that this family reads."""
    model_type: str | None = None
    """The `model_type` that it writes, where another family has that name."""
    marker: str | None = None
    """The key of config.json whose presence chooses this family among those of one `model_type`."""
    shared_types: tuple[str, ...] = ()
    """`model_type`s that it reads only where its `marker` is there: unknown formats are called so as well."""
    text_key: str | None = None
    """The key that nests the language model's config inside a multimodal one."""
    ignored: Mapping[str, str] = field(default_factory=dict)
    """IGNORED keys of config.json and why."""
    ignored_tensors: Mapping[str, str] = field(default_factory=dict)
    """Patterns of tensors that are not loaded and why."""
    tiny_config: Mapping = field(default_factory=dict)
    """A published config of a few layers and odd sizes for tests."""
    sizes: Mapping[str, Mapping] = field(default_factory=dict)
    """Published checkpoints: name -> config.json."""
    assumed: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """What no source of a model in `sizes` gives: name -> key -> where the value comes from."""

    @cached_property
    def _base(self) -> tuple[str, re.Pattern]:
        """The name of the model without its head, as "model.", and where a tensor of it begins if that is left out (a
        model saved without its head) or stands twice."""
        base = self.layer_prefix.partition(".")[0] + "."
        published = [self.layer_prefix, *(name for rule in self.trunk for name in rule.published)]
        parts = {name.removeprefix(base).partition(".")[0] for name in published if name.startswith(base)}
        return base, re.compile(rf"^(?:{re.escape(base)})*(?=(?:{'|'.join(sorted(parts))})\.)")

    @cached_property
    def handled(self) -> frozenset[str]:
        """Every key of config.json that has an effect."""
        return frozenset(self.schema.keys())

    @cached_property
    def reasons(self) -> Mapping[str, str]:
        """Every ignored key of config.json with its reason."""
        return MappingProxyType({**COMMON_IGNORED, **self.ignored})

    @cached_property
    def tiny(self) -> ModelConfig:
        """The small model that tests use."""
        return self.config_from_hf(self.tiny_config)

    def preset(self, name: str) -> ModelConfig:
        """A published size by name."""
        if name not in self.sizes:
            raise ConfigError(f"{self.name}: no preset {name!r}; it has {sorted(self.sizes)}")
        return self.config_from_hf(self.sizes[name])

    def config_from_hf(self, published: Mapping) -> ModelConfig:
        """config.json -> ModelConfig. Raises ConfigError for a key, type or value that Hyla cannot honour."""
        nested = published.get(self.text_key) if self.text_key else None
        if nested is not None and not isinstance(nested, Mapping):
            raise ConfigError(f"{self.name}: {self.text_key} = {nested!r} must be an object; fetch config.json again")
        outer = {key: value for key, value in published.items() if key != self.text_key}
        kept, left_out = {}, []
        for key, value in normalize_rope(self.name, {**outer, **(nested or {})}).items():
            if value is None or key in self.reasons:  # null asks for the default
                continue
            if key in self.handled:
                kept[key] = value
            elif writers_reason(key, value) is not None:
                left_out.append(key)
            else:
                raise ConfigError(
                    f"{self.name}: unknown key {key} = {value!r} in config.json; remove it if it changes nothing, "
                    "otherwise this version of Hyla cannot run the model"
                )
        if left_out:
            logger.info("config.json: left out, since they say nothing about the model: %s", ", ".join(left_out))
        keys = self.schema.read(self.name, kept)
        try:
            return self.from_published(keys)
        except ConfigError as error:
            if self.name in str(error):
                raise
            raise ConfigError(f"{self.name}: {error}") from error

    def config_to_hf(self, config: ModelConfig) -> dict:
        """ModelConfig -> config.json. Raises ConfigError when this format cannot describe the model."""
        published = {"architectures": [self.architecture], "model_type": self.model_type or self.name}
        published |= self.to_published(config)
        back = self.config_from_hf(published)
        if back != config:
            raise ConfigError(f"the {self.name} format cannot describe this model: {_first_difference(config, back)}")
        return published

    def canonical(self, name: str) -> str:
        """A tensor's name in the spelling that we write, without what training tools put around a model."""
        name = self._base[1].sub(self._base[0], unwrapped(name))
        for pattern, replacement in self.aliases:
            name = re.sub(pattern, replacement, name)
        return name

    def reason_to_ignore(self, name: str, config: ModelConfig, stored: Collection[str] = ()) -> str | None:
        """Why a tensor of a model's checkpoint is left out, or None. stored: all its names, in our spelling."""
        layers = len(config.sublayers) // len(self.layer_norms)
        if self.mtp is not None and self.mtp.is_uncounted(name, layers, len(config.mtp), stored):
            return "config.json does not count this multi-token prediction module"
        return next((why for pattern, why in self.ignored_tensors.items() if re.match(pattern, name)), None)

    def rules(self, config: ModelConfig, ours: Iterable[str], suits: Suits | None = None) -> list[Rule]:
        """The bound rules of a model with our parameter names; together they cover each name exactly once.

        suits: how well the rules of a block suit, where the block has several layouts: the best of them is taken, the
        family's own in a tie. None: the family's own.
        """
        ours = set(ours)
        candidates = [rule for rule in self.trunk if not (config.tie_embeddings and rule.ours == ("head.weight",))]
        candidates += _stack_rules(
            config.sublayers, self.layer_norms, self.layer_prefix.format, self.names, "", _chosen_by(suits)
        )
        candidates += self._mtp_rules(config, _chosen_by(suits))
        rules = [rule for rule in candidates if ours.issuperset(rule.ours)]
        covered = [name for rule in rules for name in rule.ours]
        uncovered = sorted(ours - set(covered))
        if uncovered or len(covered) != len(set(covered)):
            raise ConfigError(f"the {self.name} format has no name for {uncovered[:3] or covered[:3]}")
        return rules

    def rules_of_stored(self, config: ModelConfig, ours: Iterable[str], stored: Collection[str]) -> list[Rule]:
        """`rules`, each block in the layout in which `stored` has more of its tensors. stored: in our spelling."""
        return self.rules(config, ours, lambda block: sum(name in stored for rule in block for name in rule.published))

    def mtp_tensors(self, config: ModelConfig) -> frozenset[str]:
        """Published names of the tensors of the multi-token prediction modules."""
        return frozenset(name for rule in self._mtp_rules(config, _own) for name in rule.published)

    def _mtp_rules(self, config: ModelConfig, choose: Choose) -> list[Rule]:
        """The bound rules of the multi-token prediction modules."""
        spelled = self.mtp
        if spelled is None:
            return []
        norms, rules = spelled.layer_norms or self.layer_norms, []
        for module, mtp in enumerate(config.mtp):
            after = len(config.sublayers) // len(self.layer_norms) + module
            places = {"module": module, "after": after, "last": (len(mtp.sublayers) - 1) // len(norms)}
            ours = f"mtp.{module}."
            rules += spelled.own_rules(places, ours)

            def prefix(layer: int, places: Mapping = MappingProxyType(places)) -> str:
                return spelled.layer_prefix.format(layer=layer, **places)

            rules += _stack_rules(mtp.sublayers, norms, prefix, {**self.names, **spelled.names}, ours, choose)
        return rules


def _stack_rules(
    sublayers: tuple[SublayerConfig, ...],
    norms: tuple[str, ...],
    layer_prefix: Callable[[int], str],
    names: Mapping[str, tuple[Rule, ...]],
    ours: str,
    choose: Choose,
) -> list[Rule]:
    """The bound rules of a list of sublayers, whose names of ours start with `ours`, each in its layout."""
    rules = []
    for index, sublayer in enumerate(sublayers):
        layer, place = layer_prefix(index // len(norms)), f"{ours}sublayers.{index}."
        rules.append(Rule((norms[index % len(norms)],), ("norm.weight",)).with_prefixes(layer, place))
        own = names.get(sublayer.module.kind, ())
        layouts = [own] if (other := other_layout(own)) is None else [own, other]
        rules += choose([_placed(layout, sublayer, layer, place) for layout in layouts])
    return rules


def _placed(rules: Sequence[Rule], sublayer: SublayerConfig, layer: str, place: str) -> list[Rule]:
    return [rule.bind(sublayer.module).with_prefixes(layer, place + "module.") for rule in rules]


def _own(layouts: Sequence[Sequence[Rule]]) -> Sequence[Rule]:
    """Of the layouts of a block, the one that the family writes."""
    return layouts[0]


def _chosen_by(suits: Suits | None) -> Choose:
    return _own if suits is None else lambda layouts: max(layouts, key=suits)


def unwrapped(name: str) -> str:
    """A tensor's name without what training tools put around a model or its layers.

    >>> unwrapped("base_model.model.model.layers.0._orig_mod.mlp.up_proj.base_layer.weight")
    'model.layers.0.mlp.up_proj.weight'
    """
    return INSIDE.sub("", AROUND.sub("", name))


def published_shapes(rule: Rule, ours: Iterable[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Shapes of a rule's published tensors, from ours."""
    import torch

    metas = [torch.empty(shape, device="meta") for shape in ours]
    return [tuple(tensor.shape) for tensor in rule.to_published(metas)]


def _first_difference(config: ModelConfig, back: ModelConfig) -> str:
    """One field that did not survive the way through the published format."""
    ours, theirs = config.model_dump(), back.model_dump()
    for index, (mine, other) in enumerate(zip(ours.pop("sublayers"), theirs.pop("sublayers"))):
        if mine != other:
            names = sorted({key for key in mine["module"] if mine["module"].get(key) != other["module"].get(key)})
            return f"sublayer {index} differs in {names or ['norm']}; choose another family or change the model"
    names = [key for key in ours if ours[key] != theirs[key]]
    return f"it loses {names or ['sublayers']}; choose another family or change the model"
