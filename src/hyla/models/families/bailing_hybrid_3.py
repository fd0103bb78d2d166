"""Ling-3.0: five KDA layers with a bounded decay to one MLA layer with a gate per head, MoE with a shared expert.

The trunk, except nothing. Shares its `model_type` with Ling-2.5 (lightning attention); `short_conv_kernel_size` tells
them apart. The last layer of every `layer_group_size` is MLA, whose latent's norm always has eps 1e-6. transformers
stores the size of a KDA head as `linear_head_dim` and overwrites `head_dim` with `qk_rope_head_dim`; the hub's
spelling, which is written here, has it in `head_dim`. MTP modules stand behind the last layer: MLA and MoE. Verified
against transformers 5.23 on random weights: logits within 1e-5 (tests/parity/test_parity_bailing_hybrid_3.py).
"""

from __future__ import annotations

from typing import Literal

from pydantic import AliasChoices, Field

from hyla.errors import ConfigError
from hyla.models.config import KDAConfig, MLAConfig, MLPConfig, ModelConfig, MoEConfig, NormConfig, RouterConfig
from hyla.models.formats import bailing, modules
from hyla.models.formats import published as hf
from hyla.models.formats.family import Family
from hyla.models.formats.mtp_names import BAILING
from hyla.models.formats.names import concat, rename, weights

NAME = "bailing_hybrid_3"
Or = AliasChoices
DROPOUT = "dropout is a matter of training; Hyla has none"
# fmt: off
IGNORED = {
    "embedding_dropout": DROPOUT, "output_dropout": DROPOUT,
    "mtp_loss_scaling_factor": "the weight of a training loss", "router_dtype": "router scores are fp32",
    "qk_head_dim": "the sum of qk_nope_head_dim and qk_rope_head_dim",
}
# Published key: field of our config.
HEADS = {"num_attention_heads": "num_heads"}
KDA = HEADS | {"head_dim": "key_dim", "short_conv_kernel_size": "conv_len", "rms_norm_eps": "norm_eps"}
MLA = {theirs: ours for theirs, ours in modules.MLA.items() if ours != "q_lora_dim"}
MOE = {name: name for name in ("num_experts", "num_experts_per_token")} | {"moe_intermediate_size": "expert_dim"}
ROUTER = {
    "moe_renormalize": "normalize", "num_expert_group": "num_groups", "topk_group": "num_groups_kept",
    "routed_scaling_factor": "scaling",
}
REPEATED = {
    "num_key_value_heads": "num_attention_heads", "linear_num_heads": "num_attention_heads",
    "linear_conv_kernel_dim": "short_conv_kernel_size",
}
# fmt: on


class Keys(modules.MLAKeys, hf.Published):
    """HANDLED keys of config.json: the hub's spellings first, then those of transformers."""

    max_position_embeddings: hf.Count = Field(validation_alias=Or("model_max_length", "max_position_embeddings"))
    tie_word_embeddings: Literal[False] = False
    intermediate_size: hf.Count = 6144
    num_attention_heads: hf.Count = 32
    num_key_value_heads: hf.Count | None = None
    q_lora_rank: Literal[None] = None  # transformers drops it from this model; null is its only published value
    rope_parameters: hf.RopeParameters = hf.RopeParameters(rope_theta=6e6)
    rope_interleave: Literal[True] = True
    head_dim: hf.Count = 128
    linear_head_dim: hf.Count | None = None
    linear_num_heads: hf.Count | None = None
    linear_conv_kernel_dim: hf.Count | None = None
    short_conv_kernel_size: int = Field(default=4, ge=1, le=8)
    kda_safe_gate: bool = True
    kda_lower_bound: float = Field(default=-5.0, lt=0)
    layer_group_size: hf.Count = 6
    layer_types: hf.LayerTypes | None = None
    first_k_dense_replace: int = Field(default=2, ge=0)
    mlp_layer_types: list[Literal["dense", "sparse"]] | None = None
    num_experts: hf.Several = Field(default=512, validation_alias=Or("num_experts", "num_local_experts"))
    num_experts_per_token: hf.Count = Field(8, validation_alias=Or("num_experts_per_token", "num_experts_per_tok"))
    num_shared_experts: hf.Count = Field(1, validation_alias=Or("num_shared_experts", "n_shared_experts"))
    moe_intermediate_size: hf.Count = 768
    moe_renormalize: bool = Field(default=True, validation_alias=Or("moe_renormalize", "norm_topk_prob"))
    routed_scaling_factor: float = 2.5
    num_expert_group: hf.Count = Field(default=8, validation_alias=Or("num_expert_group", "n_group"))
    topk_group: hf.Count = 4
    score_function: Literal["sigmoid"] = "sigmoid"
    moe_router_enable_expert_bias: Literal[True] = True
    use_bias: Literal[False] = False
    use_qkv_bias: Literal[False] = False
    num_mtp_layers: int = Field(0, ge=0, le=64, validation_alias=Or("num_nextn_predict_layers", "num_mtp_layers"))


def _check(keys: Keys) -> None:
    for key, other in REPEATED.items():
        value, expected = getattr(keys, key), getattr(keys, other)
        if value not in (None, expected):
            raise ConfigError(f"{NAME}: {key} = {value} must equal {other} = {expected}; fetch config.json again")


def from_published(keys: Keys) -> ModelConfig:
    """config.json -> ModelConfig."""
    _check(keys)
    keys = keys.model_copy(update={"head_dim": keys.linear_head_dim or keys.head_dim})
    bound = keys.kda_lower_bound if keys.kda_safe_gate else None
    rope = keys.rope_parameters.of_head(keys.qk_rope_head_dim).model_copy(update={"interleaved": True})
    shared_dim = keys.moe_intermediate_size * keys.num_shared_experts
    router = hf.build(RouterConfig, keys, ROUTER, score="sigmoid", has_bias=True)
    layers_of = {
        "linear_attention": hf.build(KDAConfig, keys, KDA, value_dim=keys.head_dim, decay_lower_bound=bound),
        "full_attention": hf.build(
            MLAConfig,
            keys,
            MLA,
            norm_eps=modules.LATENT_EPS,
            rope=rope,
            head_gate=True,
            scale_factor=keys.rope_parameters.softmax_factor(),
        ),
        "dense": hf.build(MLPConfig, keys, modules.MLP),
        "sparse": hf.build(MoEConfig, keys, MOE, shared_dim=shared_dim, router=router),
    }
    count, group, dense = keys.num_hidden_layers, keys.layer_group_size, keys.first_k_dense_replace
    mixers = ["linear_attention" if (layer + 1) % group else "full_attention" for layer in range(count)]
    kinds = ["dense" if layer < dense else "sparse" for layer in range(count)]
    listed = hf.layer_list(NAME, "layer_types", keys.layer_types, mixers, count)
    pairs = zip(listed, hf.layer_list(NAME, "mlp_layer_types", keys.mlp_layer_types, kinds, count))
    layers = [layers_of[kind] for pair in pairs for kind in pair]
    norm = NormConfig(eps=keys.rms_norm_eps)
    mtp = hf.predictors(keys.num_mtp_layers, norm, [layers_of["full_attention"], layers_of["sparse"]])
    return ModelConfig(family=NAME, **keys.common(), **hf.prenorm(norm, layers), mtp=mtp)


def to_published(config: ModelConfig) -> dict:
    """ModelConfig -> config.json, in the hub's spelling."""
    kda, mla = hf.first(config, KDAConfig), hf.first(config, MLAConfig)
    moe, mlp = hf.first(config, MoEConfig), hf.first(config, MLPConfig)
    keys = hf.common_keys(config) | hf.publish(kda, KDA) | hf.publish(mla, MLA) | hf.publish(mlp, modules.MLP)
    keys["model_max_length"] = keys.pop("max_position_embeddings")
    keys |= {"num_key_value_heads": keys.get("num_attention_heads"), "num_nextn_predict_layers": len(config.mtp)}
    keys.setdefault("short_conv_kernel_size", 4)  # the key by which this format is known
    kinds = [sub.module.kind for sub in config.sublayers]
    keys["layer_types"] = ["full_attention" if kind == "mla" else "linear_attention" for kind in kinds[0::2]]
    keys["mlp_layer_types"] = ["dense" if kind == "mlp" else "sparse" for kind in kinds[1::2]]
    keys["first_k_dense_replace"] = kinds.count("mlp")
    if mla:
        keys["layer_group_size"] = (*kinds[0::2], "mla").index("mla") + 1
        keys |= hf.rope_keys(mla.rope, mla.rope_dim) if mla.rope else {}
    if kda:
        keys |= {"kda_safe_gate": kda.decay_lower_bound is not None, "kda_lower_bound": kda.decay_lower_bound or -5.0}
    if moe:
        keys |= hf.publish(moe, MOE) | hf.publish(moe.router, ROUTER)
        keys["num_shared_experts"] = moe.shared_dim // moe.expert_dim
    return keys


NAMES = {
    "kda": (
        *weights("attention.", "q_proj q", "k_proj k", "v_proj v", "dense o", "b_proj b", "o_norm norm"),
        *weights("attention.", "f_proj f", "g_proj g"),
        concat([f"attention.{name}_conv1d.weight" for name in "qkv"], "conv_weight", (0, 1, -1)),
        *(rename(f"attention.{name}", name) for name in ("A_log", "dt_bias")),
    ),
    "mla": modules.mla_names("attention.", "g_proj gate", out="dense"),
    **bailing.CHANNEL_MIXERS,
}

# fmt: off
TINY = {
    "vocab_size": 97, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 4, "num_attention_heads": 3,
    "kv_lora_rank": 28, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 12, "head_dim": 20,
    "short_conv_kernel_size": 4, "layer_group_size": 2, "first_k_dense_replace": 1, "num_experts": 6,
    "num_experts_per_token": 2, "num_shared_experts": 2, "moe_intermediate_size": 20, "num_expert_group": 3,
    "topk_group": 2, "num_nextn_predict_layers": 1, "model_max_length": 512, "bos_token_id": 94, "eos_token_id": 95,
}
SIZES = {"Ling-3.0-Flash": {
    "vocab_size": 157184, "hidden_size": 2560, "num_hidden_layers": 42, "model_max_length": 262144,
    "short_conv_kernel_size": 4, "eos_token_id": 156895, "pad_token_id": 156892, "num_nextn_predict_layers": 1,
}}
# fmt: on

FAMILY = Family(
    name=NAME,
    model_type="bailing_hybrid",
    marker="short_conv_kernel_size",
    schema=Keys,
    from_published=from_published,
    to_published=to_published,
    architecture="BailingHybridForCausalLM",
    names=NAMES,
    trunk=bailing.TRUNK,
    aliases=(
        (r"^model\.embed_tokens\.", "model.word_embeddings."),
        (r"\.self_attn\.(forget_gate\.)?", ".attention."),
        (r"\.attention\.o_proj\.", ".attention.dense."),
        (r"\.gate\.e_score_correction_bias$", ".gate.expert_bias"),
    ),
    ignored=IGNORED,
    mtp=BAILING,
    tiny_config=TINY,
    sizes=SIZES,
)
