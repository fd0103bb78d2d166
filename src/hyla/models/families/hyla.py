"""Hyla's own format: any pattern of any mixers and channel mixers, whatever other formats can say.

config.json holds the `ModelConfig` field by field, so every option of every module has a place in it; tensors have
our names. `ModelConfig.model_copy(update={"family": "hyla"})` makes a model of any family savable in this one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import ValidationError

from hyla.errors import ConfigError
from hyla.models.config import ModelConfig
from hyla.models.family import Family
from hyla.models.names import Rule, rename

NAME = "hyla"


class Keys:
    """HANDLED keys of config.json: the fields of `ModelConfig`, all but `family`, which is `model_type`."""

    @classmethod
    def keys(cls) -> set[str]:
        """Every field that config.json may give."""
        return set(ModelConfig.model_fields) - {"family"}

    @classmethod
    def read(cls, family: str, keys: Mapping) -> ModelConfig:
        """Validate; the error names the wrong field, its value and what it should be."""
        try:
            config = ModelConfig.model_validate({**keys, "family": family})
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ConfigError(f"{family}: {where} = {first['input']!r} in config.json: {first['msg']}") from error
        read = config.model_dump(mode="json")
        for key, value in keys.items():
            if not _says_the_same(value, read[key]):
                raise ConfigError(
                    f"{family}: {key} = {value!r} in config.json has a wrong type; it reads {read[key]!r}"
                )
        return config


def _says_the_same(given, read) -> bool:
    """Whether a JSON value was read without a conversion ("12" is not a number, 1 is not a flag)."""
    if isinstance(given, dict) and isinstance(read, dict):
        return all(key in read and _says_the_same(value, read[key]) for key, value in given.items())
    if isinstance(given, list) and isinstance(read, list):
        return len(given) == len(read) and all(map(_says_the_same, given, read))
    return given == read and isinstance(given, bool) == isinstance(read, bool)


class OwnFormat(Family):
    """A family whose tensors have our names, whatever modules the model has."""

    def rules(self, config: ModelConfig, ours: Iterable[str]) -> list[Rule]:
        """Every parameter under its own name."""
        return [rename(name, name) for name in ours]

    def mtp_tensors(self, config: ModelConfig) -> frozenset[str]:
        """The tensors by which a folder shows that it holds the modules: their final norms."""
        return frozenset(f"mtp.{module}.norm.weight" for module in range(len(config.mtp)))


def _published(config: ModelConfig) -> dict:
    return config.model_dump(mode="json", exclude={"family"})


# fmt: off
NORM = {"eps": 1e-5}
TINY = {
    "vocab_size": 89, "hidden_dim": 44, "max_len": 512, "bos_token_id": 86, "eos_token_ids": [87, 88],
    "sublayers": [{"norm": NORM, "module": module} for module in (
        {"kind": "gated_delta", "num_key_heads": 2, "num_value_heads": 4, "key_dim": 12, "value_dim": 20},
        {"kind": "mlp", "intermediate_dim": 52},
        {"kind": "linear", "num_heads": 3, "key_dim": 10, "value_dim": 14},
        {"kind": "softmax", "num_heads": 6, "num_kv_heads": 2, "head_dim": 12, "rope": {"rotary_dim": 6},
         "window": 50},
        {"kind": "mla", "num_heads": 3, "q_lora_dim": 14, "kv_lora_dim": 20, "nope_dim": 8, "rope_dim": 4,
         "value_dim": 12, "head_gate": True},
        {"kind": "moe", "num_experts": 5, "num_experts_per_token": 2, "expert_dim": 20, "shared_dim": 12},
        {"kind": "kda", "num_heads": 3, "key_dim": 12, "value_dim": 16, "conv_len": 3, "decay_lower_bound": -4.0},
    )],
}
# fmt: on

FAMILY = OwnFormat(
    name=NAME,
    schema=Keys,
    from_published=lambda config: config,
    to_published=_published,
    architecture="HylaForCausalLM",
    names={},
    trunk=tuple(rename(name, name) for name in ("embed.weight", "norm.weight", "head.weight")),
    tiny_config=TINY,
)
