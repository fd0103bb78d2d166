"""Hyla's own format: any pattern of any mixers and channel mixers, whatever other formats can say.

config.json holds the `ModelConfig` field by field, so every option of every module has a place in it; tensors have
our names. `ModelConfig.model_copy(update={"family": "hyla"})` makes a model of any family savable in this one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import ValidationError

from hyla.errors import ConfigError
from hyla.models.config import ModelConfig
from hyla.models.formats.family import Family, Suits, unwrapped
from hyla.models.formats.names import Rule, rename

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
        read = config.model_dump(mode="json")  # without fields that came later and have their defaults
        for key, value in keys.items():
            if not _says_the_same(value, read[key]):
                raise ConfigError(
                    f"{family}: {key} = {value!r} in config.json has a wrong type; it reads {read[key]!r}"
                )
        return config


def _says_the_same(given, read) -> bool:
    """Whether a JSON value was read without a conversion ("12" is not a number, 1 is not a flag)."""
    if isinstance(given, dict) and isinstance(read, dict):
        return all(_says_the_same(value, read[key]) for key, value in given.items() if key in read)
    if isinstance(given, list) and isinstance(read, list):
        return len(given) == len(read) and all(map(_says_the_same, given, read))
    return given == read and isinstance(given, bool) == isinstance(read, bool)


class OwnFormat(Family[ModelConfig]):
    """A family whose tensors have our names, whatever modules the model has."""

    def rules(self, config: ModelConfig, ours: Iterable[str], suits: Suits | None = None) -> list[Rule]:
        """Every parameter under its own name."""
        return [rename(name, name) for name in ours]

    def canonical(self, name: str) -> str:
        """Our own name, without what training tools put around a model."""
        return unwrapped(name)

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


def _gated_delta_net_h1(layers: int, hidden: int) -> dict:
    """Gated delta and sliding-window attention in turn, an MLP after each (arXiv 2412.06464, hybrid models)."""
    heads, delta_heads = hidden // 128, 9
    delta = {"kind": "gated_delta", "num_key_heads": delta_heads, "num_value_heads": delta_heads}
    delta |= {"key_dim": hidden * 3 // 4 // delta_heads, "value_dim": hidden * 3 // 2 // delta_heads, "norm_eps": 1e-5}
    window = {"kind": "softmax", "num_heads": heads, "num_kv_heads": heads, "head_dim": 128, "window": 2048}
    mixers = (delta, window | {"rope": {"rotary_dim": 128, "theta": 10000.0}})
    mlp = {"kind": "mlp", "intermediate_dim": 6144}
    modules = [module for layer in range(layers) for module in (mixers[layer % 2], mlp)]
    return {
        "vocab_size": 32000,
        "hidden_dim": hidden,
        "max_len": 4096,
        "tie_embeddings": True,
        "sublayers": [{"norm": NORM, "module": module} for module in modules],
        "final_norm": NORM,
    }


SIZES = {
    "Gated-DeltaNet-H1-0.4B": _gated_delta_net_h1(12, 1536),
    "Gated-DeltaNet-H1-1.3B": _gated_delta_net_h1(18, 2304),
}
CODE = "from the published training code; the paper does not give it"
ASSUMED = {
    "gated_delta.num_value_heads": f"9, {CODE}",
    "gated_delta.b": "no bias, though the training code gives the projection of beta one that is zero at the start",
    "softmax.rope.theta": f"10000, {CODE}",
    "mlp.intermediate_dim": f"6144, {CODE}",
    "tie_embeddings": CODE,
    "max_len": "the length of training",
}

FAMILY = OwnFormat(
    name=NAME,
    schema=Keys,
    from_published=lambda config: config,
    to_published=_published,
    architecture="HylaForCausalLM",
    names={},
    trunk=tuple(rename(name, name) for name in ("embed.weight", "norm.weight", "head.weight")),
    tiny_config=TINY,
    sizes=SIZES,
    assumed=dict.fromkeys(SIZES, ASSUMED),
)
