"""Schemas of published config.json files: what their keys are called, and which values Hyla can run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hyla.errors import ConfigError
from hyla.models.config import ModelConfig

Count = Annotated[int, Field(ge=1)]
LayerTypes = tuple[Literal["linear_attention", "full_attention"], ...]

ROPE_KEYS = ("rope_theta", "partial_rotary_factor")


class _Strict(BaseModel):
    # strict: "12" is not a number and 1 is not a flag; a retyped key is an error, not a guess.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class RopeParameters(_Strict):
    """The position code, as one object (the spelling of transformers 5)."""

    rope_type: Literal["default"] = "default"
    rope_theta: Annotated[float, Field(gt=0)] = 10000.0
    partial_rotary_factor: Annotated[float, Field(gt=0, le=1)] | None = None
    mrope_section: list[int] | None = None
    """Frequencies per image axis: no effect on text, whose three positions are equal."""
    mrope_interleaved: bool | None = None

    def rotary_dim(self, head_dim: int, default_factor: float = 1.0) -> int:
        """Rotated channels of a head."""
        return int(head_dim * (self.partial_rotary_factor or default_factor))


class Published(_Strict):
    """Keys that the families share, with the meaning that they share. A subclass adds its own."""

    vocab_size: Count
    hidden_size: Count
    num_hidden_layers: Count
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
        aliases = {field.alias for field in cls.model_fields.values() if field.alias}
        return set(cls.model_fields) | aliases

    @classmethod
    def read(cls, family: str, keys: Mapping) -> Published:
        """Validate; the error names the first wrong key, its value and what it should be."""
        try:
            return cls.model_validate(dict(keys))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            value = "is missing" if first["type"] == "missing" else f"= {first['input']!r}"
            raise ConfigError(f"{family}: {key} {value} in config.json: {first['msg']}") from error

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
        raise ConfigError(f"{family}: rope_parameters = {nested!r} must be an object")
    nested = dict(nested)
    if "type" in nested:
        nested.setdefault("rope_type", nested.pop("type"))
    for key, value in flat.items():
        if nested.setdefault(key, value) != value:
            raise ConfigError(f"{family}: {key} is {value!r} beside {nested[key]!r} in rope_parameters; keep one")
    keys["rope_parameters"] = nested
    return keys


def rope_keys(theta: float, factor: float) -> dict:
    """The position code in both spellings, for new and for older readers."""
    parts = {"rope_theta": theta, "partial_rotary_factor": factor}
    return {**parts, "rope_parameters": {"rope_type": "default", **parts}}
