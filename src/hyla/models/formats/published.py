"""Schemas of published config.json files: what their keys are called, and which values Hyla can run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self, TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from hyla.errors import ConfigError
from hyla.layers.rope_scaling import yarn_magnitude
from hyla.models.config import (
    FactorsScalingConfig,
    LinearScalingConfig,
    Llama3ScalingConfig,
    ModelConfig,
    ModuleConfig,
    MTPConfig,
    NormConfig,
    RopeConfig,
    ScalingConfig,
    SublayerConfig,
    YarnScalingConfig,
)

Count = Annotated[int, Field(ge=1, lt=2**31)]
Several = Annotated[int, Field(ge=1, le=16384)]
"""How many layers or experts: bounded, because each of them gets an entry of its own before any tensor is looked at."""
LayerTypes = list[Literal["linear_attention", "full_attention"]]

Made = TypeVar("Made", bound=BaseModel)
Module = TypeVar("Module", bound=ModuleConfig)
ROPE_KEYS = ("rope_theta", "partial_rotary_factor")
SCALINGS = {
    "linear": LinearScalingConfig,
    "llama3": Llama3ScalingConfig,
    "yarn": YarnScalingConfig,
    "hyla_factors": FactorsScalingConfig,
}
"""By `rope_type`. "hyla_factors" is ours: a divisor of each frequency, where a file gives no formula."""
ORIGINAL_LEN = "original_max_position_embeddings"


class Strict(BaseModel):
    """Base of the schemas: frozen, no unknown keys, no conversions."""

    # strict: "12" is not a number and 1 is not a flag; a retyped key is an error, not a guess.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class RopeParameters(Strict):
    """The position code, as one object (the spelling of transformers 5)."""

    rope_type: Literal["default", "linear", "llama3", "yarn", "hyla_factors"] = "default"
    rope_theta: Annotated[float, Field(gt=0)] = 10000.0
    partial_rotary_factor: Annotated[float, Field(gt=0, le=1)] | None = None
    mrope_section: list[int] | None = None
    """Frequencies per image axis: no effect on text, whose three positions are equal."""
    mrope_interleaved: bool | None = None
    factor: float | None = None
    """This and all that follows: of the scalings, as their configs say."""
    original_max_position_embeddings: Count | None = None
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    truncate: bool | None = None
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    factors: list[float] | None = None

    def of_head(self, head_dim: int, default_factor: float = 1.0, *, rotary_dim: int | None = None) -> RopeConfig:
        """The rotation of a head's leading channels. rotary_dim: their number where the format counts them.

        Raises ConfigError where a number and a factor disagree, or more are rotated than there are.
        """
        factor = self.partial_rotary_factor or default_factor
        dim = int(head_dim * factor) if rotary_dim is None else rotary_dim
        if self.partial_rotary_factor is not None and int(head_dim * factor) != dim:
            raise ConfigError(
                f"rotary_dim = {dim} in config.json beside partial_rotary_factor = {factor}, which are "
                f"{int(head_dim * factor)} channels; keep one"
            )
        if dim > head_dim:
            raise ConfigError(f"rotary_dim = {dim} in config.json must not exceed head_dim = {head_dim}")
        return RopeConfig(rotary_dim=dim, theta=self.rope_theta, scaling=self.scaling())

    def softmax_factor(self) -> float:
        """DeepSeek's part of YaRN's magnitude, which stands on MLA's softmax scale."""
        scaling = self.scaling()
        if scaling is None or scaling.kind != "yarn" or not scaling.mscale_all_dim:
            return 1.0
        return yarn_magnitude(scaling.factor, scaling.mscale_all_dim) ** 2

    def scaling(self) -> ScalingConfig | None:
        """The scaling that `rope_type` names. Raises ConfigError for a key that it does not have."""
        names = list(RopeParameters.model_fields)
        given = {name: getattr(self, name) for name in names[names.index("factor") :]}
        given = {name: value for name, value in given.items() if value is not None}
        if self.rope_type == "default":
            if given:
                raise ConfigError(f"rope_parameters = {given} in config.json mean nothing with rope_type 'default'")
            return None
        if ORIGINAL_LEN in given:
            given["original_max_len"] = given.pop(ORIGINAL_LEN)
        if self.rope_type == "linear":  # some writers repeat the length there; it has no part in the formula
            given.pop("original_max_len", None)
        return SCALINGS[self.rope_type](**given)


class Published(Strict):
    """Keys that the families share, with the meaning that they share. A subclass adds its own."""

    vocab_size: Count
    hidden_size: Count
    num_hidden_layers: Annotated[int, Field(ge=1, le=1024)]
    rms_norm_eps: Annotated[float, Field(gt=0)] = 1e-6
    max_position_embeddings: Count
    tie_word_embeddings: bool = False
    initializer_range: Annotated[float, Field(gt=0)] = 0.02
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    hidden_act: Literal["silu"] = "silu"
    attention_bias: Literal[False] = False

    @classmethod
    def keys(cls) -> set[str]:
        """Every accepted spelling."""
        spelled = set()
        for name, field in cls.model_fields.items():
            alias = field.validation_alias
            spelled.update(alias.choices if isinstance(alias, AliasChoices) else [name])
        return spelled

    @classmethod
    def read(cls, family: str, keys: Mapping) -> Self:
        """Validate; the error names the first wrong key, its value and what it should be."""
        try:
            return cls.model_validate(cls._once(family, keys))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            value = "is missing" if first["type"] == "missing" else f"= {first['input']!r}"
            raise ConfigError(f"{family}: {key} {value} in config.json: {first['msg']}") from error

    @classmethod
    def _once(cls, family: str, keys: Mapping) -> dict:
        """Each value under one spelling. Raises ConfigError when two of a key's spellings disagree."""
        keys = dict(keys)
        for field in cls.model_fields.values():
            alias = field.validation_alias
            spelled = [str(name) for name in alias.choices if name in keys] if isinstance(alias, AliasChoices) else []
            for other in spelled[1:]:
                if keys.pop(other) != keys[spelled[0]]:
                    raise ConfigError(f"{family}: {spelled[0]} and {other} differ in config.json; keep one")
        return keys

    def common(self) -> dict:
        """The fields of ModelConfig that every family fills in the same way."""
        eos = self.eos_token_id
        return {
            "vocab_size": self.vocab_size,
            "hidden_dim": self.hidden_size,
            "tie_embeddings": self.tie_word_embeddings,
            "max_len": self.max_position_embeddings,
            "bos_token_id": self.bos_token_id,
            "eos_token_ids": tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,),
            "pad_token_id": self.pad_token_id,
            "init_std": self.initializer_range,
        }


def common_keys(config: ModelConfig) -> dict:
    """The inverse of `Published.common`."""
    eos = list(config.eos_token_ids)
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_dim,
        "num_hidden_layers": len(config.mixers),
        "rms_norm_eps": config.final_norm.eps,
        "max_position_embeddings": config.max_len,
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": config.init_std,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": eos if len(eos) > 1 else eos[0] if eos else None,
        "pad_token_id": config.pad_token_id,
        "hidden_act": "silu",
    }


def normalize_rope(family: str, keys: Mapping) -> dict:
    """One spelling of the position code: flat keys and `rope_scaling` move into `rope_parameters`.

    Raises ConfigError when two spellings disagree.
    """
    keys = dict(keys)
    flat = {key: keys.pop(key) for key in ROPE_KEYS if keys.get(key) is not None}
    nested = keys.pop("rope_scaling", None) or keys.get("rope_parameters") or {}
    if not isinstance(nested, Mapping):
        raise ConfigError(f"{family}: rope_parameters = {nested!r} in config.json must be an object")
    nested = dict(nested)
    if "type" in nested:
        nested.setdefault("rope_type", nested.pop("type"))
    for key, value in flat.items():
        if nested.setdefault(key, value) != value:
            raise ConfigError(f"{family}: {key} is {value!r} beside {nested[key]!r} in rope_parameters; keep one")
    if nested:
        keys["rope_parameters"] = nested
    return keys


def rope_keys(rope: RopeConfig, head_dim: int) -> dict:
    """The inverse of `RopeParameters.of_head`, in both spellings, for new and for older readers."""
    factor = rope.rotary_dim / head_dim
    if int(head_dim * factor) < rope.rotary_dim:  # readers round head_dim * factor down
        factor = math.nextafter(factor, 1.0)
    parts = {"rope_theta": rope.theta} | ({} if factor == 1.0 else {"partial_rotary_factor": factor})
    if rope.scaling is None:
        return {**parts, "rope_parameters": {"rope_type": "default", **parts}}
    scaling = rope.scaling.model_dump(mode="json", exclude_none=True)
    del scaling["kind"]
    kind = next(name for name, made in SCALINGS.items() if type(rope.scaling) is made)
    if "original_max_len" in scaling:
        scaling[ORIGINAL_LEN] = scaling.pop("original_max_len")
    nested = {"rope_type": kind, **scaling, **parts}
    return {**parts, "rope_parameters": nested, "rope_scaling": {"type": kind, **nested}}


def layer_list(family: str, key: str, values: list | None, default: list, num_layers: int) -> list:
    """One value per layer: the list in config.json, or the default rule's. Raises ConfigError for a wrong length."""
    values = default if values is None else values
    if len(values) != num_layers:
        raise ConfigError(
            f"{family}: {key} has {len(values)} entries for num_hidden_layers = {num_layers}; they must agree"
        )
    return values


def named_layers(
    family: str, keys: Published, number_key: str, name_key: str, names: tuple[str, ...], default: list
) -> list[str]:
    """One name per layer: listed as numbers (places in `names`) under one key, as names under another, or by default.

    Raises ConfigError when both are given and disagree.
    """
    numbers, named = getattr(keys, number_key), getattr(keys, name_key)
    counted = None if numbers is None else [names[number] for number in numbers]
    if named is not None and counted is not None and named != counted:
        raise ConfigError(f"{family}: {number_key} and {name_key} disagree in config.json; keep one")
    key, values = (number_key, counted) if named is None else (name_key, named)
    return layer_list(family, key, values, default, keys.num_hidden_layers)


def prenorm(norm: NormConfig, modules: Sequence[ModuleConfig]) -> dict:
    """Fields of ModelConfig for a stack in which one kind of norm precedes every module and the head."""
    return {"sublayers": tuple(SublayerConfig(norm=norm, module=module) for module in modules), "final_norm": norm}


def predictors(count: int, norm: NormConfig, modules: Sequence[ModuleConfig], **fields) -> tuple[MTPConfig, ...]:
    """`count` equal multi-token prediction modules, in which one kind of norm stands everywhere."""
    return (MTPConfig(norm=norm, **prenorm(norm, modules), **fields),) * count


def first(config: ModelConfig, kind: type[Module]) -> Module | None:
    """The first module config of exactly this class, in the trunk or else in multi-token prediction, or None."""
    sublayers = (*config.sublayers, *(sub for module in config.mtp for sub in module.sublayers))
    return next((module for module in (sub.module for sub in sublayers) if type(module) is kind), None)


def build(kind: type[Made], keys: Strict, fields: Mapping[str, str], **others) -> Made:
    """A config of ours from published keys: `fields` maps their name to our field."""
    return kind(**{ours: getattr(keys, theirs) for theirs, ours in fields.items()}, **others)


def publish(module: BaseModel | None, fields: Mapping[str, str]) -> dict:
    """The inverse of `build`; nothing for a module that the model does not have."""
    return {} if module is None else {theirs: getattr(module, ours) for theirs, ours in fields.items()}
