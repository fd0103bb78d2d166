"""Nemotron-H and Nemotron-3: Mamba-2, NoPE attention, MoE and dense layers, one sublayer to a layer.

The trunk, with one published layer per sublayer and a letter for each: M Mamba-2, * attention, E MoE, - dense MLP
(arXiv 2504.03624). relu2 without gates; Super's routed experts see a latent. dt is limited by `time_step_limit`, by
default (0, inf) as in the published code; transformers 5.23 raises it to `time_step_min` in its chunked form only.
Verified against transformers without that clamp, on random weights (tests/parity/test_parity_nemotron_h.py).
Super's MTP module, again one sublayer to a layer, was trained to be applied twice, its normed output handed on
(arXiv 2604.12374; Megatron-LM's repeated layer). Each step attends to its own rows, so it has caches of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import AliasChoices, BeforeValidator, Field

from hyla.errors import ConfigError
from hyla.models.config import (
    Mamba2Config,
    MLPConfig,
    ModelConfig,
    ModuleConfig,
    MoEConfig,
    NormConfig,
    RouterConfig,
    SoftmaxConfig,
    SublayerConfig,
)
from hyla.models.formats import published as hf
from hyla.models.formats.family import Family
from hyla.models.formats.mtp_names import NEMOTRON_3
from hyla.models.formats.names import fuse, rename, reshape, stack, weights

logger = logging.getLogger("hyla.models")

_START = "shapes the random start of weights only"
_OTHER = "an option of another library's runtime"
IGNORED = {
    "chunk_size": "chunks have 64 tokens on Hyla's grid; results differ from other sizes by rounding only",
    "expand": "the width of a Mamba layer is mamba_num_heads * mamba_head_dim",
    "hidden_dropout": "dropout is a matter of training; Hyla has none",
    "mamba_ssm_cache_dtype": "states are always fp32",
    "rope_parameters": "this family has no position code",
    **dict.fromkeys(("time_step_floor", "time_step_max", "time_step_min", "rescale_prenorm_residual"), _START),
    **dict.fromkeys(("moe_shared_expert_overlap", "num_logits_to_keep", "use_mamba_kernels"), _OTHER),
}
TYPES = AliasChoices("layers_block_type", "layer_types")

# Published key: field of our config.
MAMBA_HEADS = {"mamba_num_heads": "num_heads", "mamba_head_dim": "head_dim", "n_groups": "num_groups"}
MAMBA = {**MAMBA_HEADS, "ssm_state_size": "state_dim", "conv_kernel": "conv_len"}
ATTENTION = {"num_attention_heads": "num_heads", "num_key_value_heads": "num_kv_heads", "head_dim": "head_dim"}
EXPERT_DIMS = {"moe_intermediate_size": "expert_dim", "moe_shared_expert_intermediate_size": "shared_dim"}
MOE = {"n_routed_experts": "num_experts", "num_experts_per_tok": "num_experts_per_token", **EXPERT_DIMS}
GROUPS = {"n_group": "num_groups", "topk_group": "num_groups_kept"}
ROUTER = {**GROUPS, "norm_topk_prob": "normalize", "routed_scaling_factor": "scaling"}
MLP = {"intermediate_size": "intermediate_dim"}
NO_LIMIT = (0.0, float("inf"))
MTP_STEPS = 2  # not in config.json
# transformers 5 spells infinity as an object.
Bound = Annotated[
    float,
    Field(allow_inf_nan=True),
    BeforeValidator(lambda value: float("inf") if value == {"__float__": "Infinity"} else value),
]

LETTERS = {"mamba2": "M", "moe": "E", "softmax": "*", "mlp": "-"}
"""The letter of each kind of our sublayers."""
LETTER_OF_NAME = {
    "linear_attention": "M",
    "mamba": "M",
    "full_attention": "*",
    "attention": "*",
    "moe": "E",
    "mlp": "-",
}
"""The letter of each published name of a layer's kind."""


def read_letters(family: str, keys: hf.Published, key: str, list_key: str) -> str:
    """The letters of a stack, given under one key or as names under another.

    Where they disagree the letters decide, as in the published code, and a warning says so. Raises ConfigError when
    there is none, or a letter is unknown.
    """
    listed = "".join(LETTER_OF_NAME.get(kind, f"<{kind}>") for kind in getattr(keys, list_key) or ())
    pattern = getattr(keys, key) or listed
    if listed not in ("", pattern):
        logger.warning("%s: %s = %r decides; %s says %r and is left out", family, key, pattern, list_key, listed)
    if not pattern or set(pattern) - set(LETTERS.values()):
        raise ConfigError(f"{family}: {key} = {pattern!r} must be letters of M, E, * and -")
    return pattern


def spell(sublayers: Iterable[SublayerConfig]) -> str:
    """The inverse; a kind without a letter stands in angle brackets, which no reader accepts."""
    return "".join(LETTERS.get(sub.module.kind, f"<{sub.module.kind}>") for sub in sublayers)


class Keys(hf.Published):
    """HANDLED keys of config.json."""

    num_hidden_layers: hf.Several | None = None
    rms_norm_eps: float = Field(default=1e-5, gt=0, validation_alias=AliasChoices("layer_norm_epsilon"))
    norm_eps: float | None = None  # published files carry it beside layer_norm_epsilon
    hybrid_override_pattern: Annotated[str, Field(max_length=16384)] | None = None
    layers_block_type: list[str] | None = Field(default=None, max_length=16384, validation_alias=TYPES)
    num_attention_heads: hf.Count = 32
    num_key_value_heads: hf.Count = 8
    head_dim: hf.Count = Field(default=128, validation_alias=AliasChoices("head_dim", "attention_head_dim"))
    intermediate_size: hf.Count = 21504
    mlp_hidden_act: Literal["relu2"] = "relu2"
    mlp_bias: Literal[False] = False
    use_bias: Literal[False] = False
    mamba_proj_bias: Literal[False] = False
    use_conv_bias: Literal[True] = True
    mamba_hidden_act: Literal["silu"] = "silu"
    mamba_num_heads: hf.Count = 128
    mamba_head_dim: hf.Count = 64
    n_groups: hf.Count = 8
    ssm_state_size: hf.Count = 128
    conv_kernel: hf.Count = 4
    time_step_limit: Annotated[list[Bound], Field(min_length=2, max_length=2)] | None = None
    n_routed_experts: hf.Several = 8
    n_shared_experts: Literal[1] = 1
    num_experts_per_tok: hf.Count = 2
    moe_intermediate_size: hf.Count = 7688
    moe_shared_expert_intermediate_size: hf.Count = 7688
    moe_latent_size: hf.Count | None = None
    n_group: hf.Count = 1
    topk_group: hf.Count = 1
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 1.0
    residual_in_fp32: Literal[False] = False
    num_nextn_predict_layers: Literal[0, 1] = 0
    mtp_hybrid_override_pattern: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    mtp_layers_block_type: list[str] | None = Field(default=None, min_length=1, max_length=64)


def _module(keys: Keys, letter: str) -> ModuleConfig:
    """The module config of a layer."""
    if letter == "M":
        limit = tuple(keys.time_step_limit or NO_LIMIT)
        return hf.build(Mamba2Config, keys, MAMBA, norm_eps=keys.rms_norm_eps, time_step_limit=limit)
    if letter == "*":
        return hf.build(SoftmaxConfig, keys, ATTENTION)
    if letter == "-":
        return hf.build(MLPConfig, keys, MLP, activation="relu2")
    router = hf.build(RouterConfig, keys, ROUTER, score="sigmoid", has_bias=True)
    return hf.build(MoEConfig, keys, MOE, router=router, activation="relu2", latent_dim=keys.moe_latent_size or 0)


def from_published(keys: Keys) -> ModelConfig:
    """config.json -> ModelConfig."""
    if keys.norm_eps not in (None, keys.rms_norm_eps):
        raise ConfigError(f"nemotron_h: norm_eps = {keys.norm_eps} must equal layer_norm_epsilon {keys.rms_norm_eps}")
    letters = read_letters("nemotron_h", keys, "hybrid_override_pattern", "layers_block_type")
    if keys.num_hidden_layers not in (None, len(letters)):
        raise ConfigError(f"nemotron_h: {len(letters)} layers, but num_hidden_layers = {keys.num_hidden_layers}")
    modules = [_module(keys, letter) for letter in letters]
    norm, mtp = NormConfig(eps=keys.rms_norm_eps), ()
    if keys.num_nextn_predict_layers:
        letters = read_letters("nemotron_h", keys, "mtp_hybrid_override_pattern", "mtp_layers_block_type")
        mtp = hf.predictors(1, norm, [_module(keys, letter) for letter in letters], num_steps=MTP_STEPS)
    return ModelConfig(family="nemotron_h", **keys.common(), **hf.prenorm(norm, modules), mtp=mtp)


def to_published(config: ModelConfig) -> dict:
    """ModelConfig -> config.json, in the hub's spelling."""
    keys = {key: value for key, value in hf.common_keys(config).items() if key != "hidden_act"}
    keys["layer_norm_epsilon"] = keys.pop("rms_norm_eps")
    keys |= {"num_hidden_layers": len(config.sublayers), "hybrid_override_pattern": spell(config.sublayers)}
    keys["num_nextn_predict_layers"] = len(config.mtp)
    if config.mtp:
        keys["mtp_hybrid_override_pattern"] = spell(config.mtp[0].sublayers)
    mamba, attention = hf.first(config, Mamba2Config), hf.first(config, SoftmaxConfig)
    mlp, moe = hf.first(config, MLPConfig), hf.first(config, MoEConfig)
    keys |= hf.publish(mamba, MAMBA) | hf.publish(attention, ATTENTION) | hf.publish(mlp, MLP) | hf.publish(moe, MOE)
    if mamba and mamba.time_step_limit != NO_LIMIT:
        keys["time_step_limit"] = list(mamba.time_step_limit)
    if moe:
        keys |= hf.publish(moe.router, ROUTER) | {"moe_latent_size": moe.latent_dim or None}
    return keys


NAMES = {
    "mamba2": (
        fuse("mixer.in_proj.weight", [f"{name}.weight" for name in ("z", "x", "b", "c", "dt")]),
        reshape("mixer.conv1d.weight", "conv_weight", (0, 1, -1)),
        rename("mixer.conv1d.bias", "conv_bias"),
        *(rename(f"mixer.{name}", name) for name in ("A_log", "D", "dt_bias")),
        *weights("mixer.", "norm norm", "out_proj o"),
    ),
    "softmax": weights("mixer.", "q_proj q", "k_proj k", "v_proj v", "o_proj o"),
    "mlp": weights("mixer.", "up_proj up", "down_proj down"),
    "moe": (
        rename("mixer.gate.weight", "router"),
        rename("mixer.gate.e_score_correction_bias", "router_bias"),
        *(stack(f"mixer.experts.{{}}.{name}_proj.weight", f"experts_{name}") for name in ("up", "down")),
        *weights("mixer.", "fc1_latent_proj to_latent", "fc2_latent_proj from_latent"),
        *weights("mixer.shared_experts.", "up_proj up", "down_proj down", ours="shared."),
    ),
}

# fmt: off
TINY = {
    "vocab_size": 97, "hidden_size": 44, "hybrid_override_pattern": "ME*-ME", "intermediate_size": 80,
    "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 24, "mamba_num_heads": 6, "mamba_head_dim": 12,
    "n_groups": 2, "ssm_state_size": 20, "n_routed_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 20,
    "moe_shared_expert_intermediate_size": 28, "moe_latent_size": 36, "routed_scaling_factor": 2.5,
    "max_position_embeddings": 512, "bos_token_id": 94, "eos_token_id": 95,
    "num_nextn_predict_layers": 1, "mtp_hybrid_override_pattern": "*E",
}
_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_NEMOTRON_3 = {"vocab_size": 131072, "max_position_embeddings": 262144, "num_key_value_heads": 2, **_IDS}
NANO = "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME"
SUPER = "MEMEMEM*EMEMEMEM*EMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEM*EMEMEMEME"
SIZES = {
    "Nemotron-3-Nano-30B-A3B": {
        **_NEMOTRON_3, "hidden_size": 2688, "hybrid_override_pattern": NANO, "mamba_num_heads": 64,
        "n_routed_experts": 128, "num_experts_per_tok": 6, "moe_intermediate_size": 1856,
        "moe_shared_expert_intermediate_size": 3712, "routed_scaling_factor": 2.5,
    },
    "Nemotron-3-Super-120B-A12B": {
        **_NEMOTRON_3, "hidden_size": 4096, "hybrid_override_pattern": SUPER, "n_routed_experts": 512,
        "num_experts_per_tok": 22, "moe_intermediate_size": 2688, "moe_shared_expert_intermediate_size": 5376,
        "moe_latent_size": 1024, "routed_scaling_factor": 5.0, "eos_token_id": [2, 11],
        "num_nextn_predict_layers": 1, "mtp_hybrid_override_pattern": "*E",
    },
}
# fmt: on

FAMILY = Family(
    name="nemotron_h",
    schema=Keys,
    from_published=from_published,
    to_published=to_published,
    architecture="NemotronHForCausalLM",
    names=NAMES,
    layer_norms=("norm.weight",),
    layer_prefix="backbone.layers.{}.",
    trunk=(*weights("backbone.", "embeddings embed", "norm_f norm"), *weights("", "lm_head head")),
    ignored=IGNORED,
    mtp=NEMOTRON_3,
    tiny_config=TINY,
    sizes=SIZES,
)
