"""Kimi Linear: three KDA layers to one NoPE MLA layer, MoE with a shared expert (arXiv 2510.26692).

The trunk, except nothing. Layer numbers in `linear_attn_config` count from 1. Reads the hub's spelling and that of
transformers 5.23 (`layer_types`, `mlp_layer_types`, `linear_*`; a dense layer under `block_sparse_moe`); writes the
hub's. The latent's norm has eps 1e-6 whatever `rms_norm_eps` is: the published code leaves it at its default.
Verified against transformers 5.23 on random weights (tests/parity/test_parity_kimi_linear.py).
"""

from __future__ import annotations

from typing import Literal

from pydantic import AliasChoices, Field

from hyla.errors import ConfigError
from hyla.models.config import KDAConfig, MLAConfig, MLPConfig, ModelConfig, MoEConfig, NormConfig, RouterConfig
from hyla.models.formats import published as hf
from hyla.models.formats.family import Family
from hyla.models.formats.modules import LATENT_EPS, MLA, MLP, MLAKeys, mla_names
from hyla.models.formats.names import SWIGLU, concat, rename, reshape, stack, weights

EXPERTS = (("w1", "gate"), ("w3", "up"), ("w2", "down"))
LENGTH = AliasChoices("model_max_length", "max_position_embeddings")
IGNORED = {
    "head_dim": "not the head size of either mixer",
    "qk_head_dim": "the sum of qk_nope_head_dim and qk_rope_head_dim",
    "rope_parameters": "this family has no position code",
}

# fmt: off
# Published key: field of our config.
KDA = {"num_heads": "num_heads", "head_dim": "key_dim", "short_conv_kernel_size": "conv_len"}
LINEAR = {
    "linear_num_heads": "num_heads", "linear_head_dim": "head_dim", "linear_conv_kernel_dim": "short_conv_kernel_size",
}
MOE = {
    "num_experts": "num_experts", "num_experts_per_token": "num_experts_per_token",
    "moe_intermediate_size": "expert_dim",
}
ROUTER = {
    "moe_router_activation_func": "score", "moe_renormalize": "normalize", "num_expert_group": "num_groups",
    "topk_group": "num_groups_kept", "routed_scaling_factor": "scaling",
}
# fmt: on


class LinearAttention(hf.Strict):
    """The nested `linear_attn_config`."""

    num_heads: hf.Count = 32
    head_dim: hf.Count = 128
    short_conv_kernel_size: hf.Count = 4
    kda_layers: list[hf.Count] = []  # noqa: RUF012 (pydantic copies defaults)
    full_attn_layers: list[hf.Count] = []  # noqa: RUF012


class Keys(MLAKeys, hf.Published):
    """HANDLED keys of config.json."""

    rms_norm_eps: float = Field(default=1e-5, gt=0)
    max_position_embeddings: hf.Count = Field(validation_alias=LENGTH)
    tie_word_embeddings: Literal[False] = False  # transformers never ties this family, whatever the key says
    intermediate_size: hf.Count = 9216
    num_attention_heads: hf.Count = 32
    num_key_value_heads: hf.Count | None = None
    mla_use_nope: Literal[True] = True
    linear_attn_config: LinearAttention | None = None
    layer_types: hf.LayerTypes | None = None
    linear_num_heads: hf.Count = 32
    linear_head_dim: hf.Count = 128
    linear_conv_kernel_dim: hf.Count = 4
    first_k_dense_replace: int = Field(default=1, ge=0)
    mlp_layer_types: list[Literal["dense", "sparse"]] | None = None
    moe_layer_freq: Literal[1] = 1
    topk_method: Literal["noaux_tc"] = "noaux_tc"
    num_experts: hf.Several = 256
    num_experts_per_token: hf.Count = 8
    num_shared_experts: hf.Count = 1
    moe_intermediate_size: hf.Count = 1024
    moe_renormalize: bool = True
    moe_router_activation_func: Literal["sigmoid"] = "sigmoid"
    routed_scaling_factor: float = 2.446
    use_grouped_topk: Literal[True] = True
    num_expert_group: hf.Count = 1
    topk_group: hf.Count = 1
    num_nextn_predict_layers: Literal[0] = 0


def _layer_types(keys: Keys, linear: LinearAttention) -> list[str]:
    """The mixer of each layer: `layer_types` where it is given, as in transformers, else the 1-based lists."""
    count = keys.num_hidden_layers
    listed = sorted(linear.kda_layers + linear.full_attn_layers)
    if keys.layer_types is None and listed != list(range(1, count + 1)):
        raise ConfigError(f"kimi_linear: kda_layers + full_attn_layers = {listed} must name each of 1 to {count} once")
    full = linear.full_attn_layers
    default = ["full_attention" if number in full else "linear_attention" for number in range(1, count + 1)]
    return hf.layer_list("kimi_linear", "layer_types", keys.layer_types, default, count)


def from_published(keys: Keys) -> ModelConfig:
    """config.json -> ModelConfig."""
    kv_heads = keys.num_key_value_heads
    if kv_heads not in (None, keys.num_attention_heads):
        raise ConfigError(f"kimi_linear: num_key_value_heads = {kv_heads} must equal num_attention_heads")
    linear = keys.linear_attn_config or hf.build(LinearAttention, keys, LINEAR)
    sizes = {"value_dim": linear.head_dim, "gate_rank": linear.head_dim, "norm_eps": keys.rms_norm_eps}
    shared_dim = keys.moe_intermediate_size * keys.num_shared_experts
    router = hf.build(RouterConfig, keys, ROUTER, has_bias=True)
    modules = {
        "linear_attention": hf.build(KDAConfig, linear, KDA, **sizes),
        "full_attention": hf.build(MLAConfig, keys, MLA, norm_eps=LATENT_EPS),
        "dense": hf.build(MLPConfig, keys, MLP),
        "sparse": hf.build(MoEConfig, keys, MOE, shared_dim=shared_dim, router=router),
    }
    count, dense = keys.num_hidden_layers, keys.first_k_dense_replace
    default = ["dense" if layer < dense else "sparse" for layer in range(count)]
    kinds = hf.layer_list("kimi_linear", "mlp_layer_types", keys.mlp_layer_types, default, count)
    layers = [modules[kind] for pair in zip(_layer_types(keys, linear), kinds) for kind in pair]
    return ModelConfig(family="kimi_linear", **keys.common(), **hf.prenorm(NormConfig(eps=keys.rms_norm_eps), layers))


def to_published(config: ModelConfig) -> dict:
    """ModelConfig -> config.json, in the hub's spelling."""
    kda, mla = hf.first(config, KDAConfig), hf.first(config, MLAConfig)
    moe, mlp = hf.first(config, MoEConfig), hf.first(config, MLPConfig)
    keys = hf.common_keys(config)
    keys["model_max_length"] = keys.pop("max_position_embeddings")
    keys["first_k_dense_replace"] = [sub.module.kind for sub in config.sublayers].count("mlp")
    layers = {kind: [n for n, mixer in enumerate(config.mixers, 1) if mixer.kind == kind] for kind in ("kda", "mla")}
    numbers = {"kda_layers": layers["kda"], "full_attn_layers": layers["mla"]}
    keys["linear_attn_config"] = {**hf.publish(kda, KDA), **numbers}
    keys |= hf.publish(mla, MLA | {"num_key_value_heads": "num_heads"}) | {"mla_use_nope": True}
    keys |= hf.publish(mlp, MLP) | hf.publish(moe, MOE)
    if moe:
        keys["num_shared_experts"] = moe.shared_dim // moe.expert_dim
        keys.update(hf.publish(moe.router, ROUTER))
    return keys


NAMES = {
    "kda": (
        *weights("self_attn.", "q_proj q", "k_proj k", "v_proj v", "o_proj o", "b_proj b", "o_norm norm"),
        *weights("self_attn.", "f_a_proj f_a", "f_b_proj f_b", "g_a_proj g_a", "g_b_proj g_b"),
        concat([f"self_attn.{name}_conv1d.weight" for name in "qkv"], "conv_weight", (0, 1, -1)),
        reshape("self_attn.A_log", "A_log", (1, 1, -1, 1)),
        rename("self_attn.dt_bias", "dt_bias"),
    ),
    "mla": mla_names("self_attn."),
    "mlp": weights("mlp.", *SWIGLU),
    "moe": (
        rename("block_sparse_moe.gate.weight", "router"),
        rename("block_sparse_moe.gate.e_score_correction_bias", "router_bias"),
        *(stack(f"block_sparse_moe.experts.{{}}.{w}.weight", f"experts_{ours}") for w, ours in EXPERTS),
        *weights("block_sparse_moe.shared_experts.", *SWIGLU, ours="shared."),
    ),
}

# fmt: off
TINY = {
    "vocab_size": 97, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 4, "num_attention_heads": 6,
    "kv_lora_rank": 28, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 12,
    "linear_attn_config": {"num_heads": 3, "head_dim": 14, "kda_layers": [1, 2, 3], "full_attn_layers": [4]},
    "num_experts": 6, "num_experts_per_token": 2, "num_shared_experts": 2, "moe_intermediate_size": 20,
    "num_expert_group": 3, "topk_group": 2, "model_max_length": 512, "bos_token_id": 94, "eos_token_id": 95,
}
SIZES = {"Kimi-Linear-48B-A3B": {
    "vocab_size": 163840, "hidden_size": 2304, "num_hidden_layers": 27, "model_max_length": 1048576,
    "linear_attn_config": {
        "kda_layers": [n for n in range(1, 27) if n % 4], "full_attn_layers": [4, 8, 12, 16, 20, 24, 27],
    },
    "bos_token_id": 163584, "eos_token_id": 163586, "pad_token_id": 163839,
}}
# fmt: on

FAMILY = Family(
    name="kimi_linear",
    schema=Keys,
    from_published=from_published,
    to_published=to_published,
    architecture="KimiLinearForCausalLM",
    names=NAMES,
    aliases=((r"\.block_sparse_moe\.(gate|up|down)_proj\.", r".mlp.\1_proj."),),
    ignored=IGNORED,
    tiny_config=TINY,
    sizes=SIZES,
)
