"""Ling 2.0 and Ring 2.0: the full-attention baseline of Ring-linear (arXiv 2510.22115; Ling-mini-2.0 to Ling-1T).

The trunk with grouped-query attention, QK-norm and partial RoPE in every layer, and MoE with DeepSeek's router.
Queries, keys and values are one published matrix, block after block. Verified against an independent float64 reference
of the whole model (tests/parity/test_parity_bailing.py); transformers does not have this family. MTP modules stand
behind the last layer: full attention and MoE, each given the normed output before it, as in the publishers' code.
What is here besides the family itself serves the later ones.
The hub calls this format `bailing_moe`, as it does Ling 1.5, which has no expert bias and is refused.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hyla.models.config import (
    MixerConfig,
    MLPConfig,
    ModelConfig,
    MoEConfig,
    NormConfig,
    RouterConfig,
    SoftmaxConfig,
)
from hyla.models.formats import published as hf
from hyla.models.formats.family import Family
from hyla.models.formats.mtp_names import BAILING
from hyla.models.formats.names import SWIGLU, fuse, rename, stack, weights

IGNORED = {
    **dict.fromkeys(("embedding_dropout", "output_dropout"), "dropout is a matter of training; Hyla has none"),
    **dict.fromkeys(("max_window_layers", "sliding_window"), "only used with use_sliding_window"),
    "moe_router_topk_scaling_factor": "another name of routed_scaling_factor in the original training",
    "mtp_loss_scaling_factor": "the weight of a training loss",
    "router_dtype": "router scores are fp32 in any case",
    "seq_aux": "a training loss",
}

# fmt: off
# Published key: field of our config.
ATTENTION = {"num_attention_heads": "num_heads", "num_key_value_heads": "num_kv_heads", "head_dim": "head_dim"}
MOE = {
    "num_experts": "num_experts", "num_experts_per_tok": "num_experts_per_token", "moe_intermediate_size": "expert_dim"
}
ROUTER = {
    "score_function": "score", "moe_router_enable_expert_bias": "has_bias", "norm_topk_prob": "normalize",
    "n_group": "num_groups", "topk_group": "num_groups_kept", "routed_scaling_factor": "scaling",
}
# fmt: on


class BailingKeys(hf.Published):
    """Keys of config.json that all Bailing families handle."""

    intermediate_size: hf.Count
    num_attention_heads: hf.Count = 16
    head_dim: hf.Count = 128
    rope_parameters: hf.RopeParameters = hf.RopeParameters()
    use_qk_norm: bool = True
    use_qkv_bias: Literal[False] = False
    use_bias: Literal[False] = False
    use_rmsnorm: Literal[True] = True
    use_sliding_window: Literal[False] = False
    norm_head: Literal[False] = False
    first_k_dense_replace: int = Field(default=1, ge=0)
    num_experts: hf.Several = 256
    num_experts_per_tok: hf.Count = 8
    num_shared_experts: int = Field(default=1, ge=0, le=16384)
    moe_intermediate_size: hf.Count = 512
    moe_shared_expert_intermediate_size: hf.Count | None = None
    moe_router_enable_expert_bias: bool = True
    n_group: hf.Count = 8
    topk_group: hf.Count = 4
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 1.0
    score_function: Literal["sigmoid"] = "sigmoid"
    scoring_func: Literal["sigmoid"] = "sigmoid"
    topk_method: Literal["noaux_tc"] = "noaux_tc"
    num_nextn_predict_layers: int = Field(default=0, ge=0, le=64)

    def norm(self) -> NormConfig:
        return NormConfig(eps=self.rms_norm_eps)

    def model(self, family: str, mixers: list[MixerConfig], full: MixerConfig) -> ModelConfig:
        """The stack: each mixer with its dense or routed channel mixer. full: the mixer of the MTP modules."""
        shared_dim = (self.moe_shared_expert_intermediate_size or self.moe_intermediate_size) * self.num_shared_experts
        router = hf.build(RouterConfig, self, ROUTER)
        sparse = hf.build(MoEConfig, self, MOE, shared_dim=shared_dim, router=router)
        dense = MLPConfig(intermediate_dim=self.intermediate_size)
        modules = []
        for layer, mixer in enumerate(mixers):
            modules += [mixer, dense if layer < self.first_k_dense_replace else sparse]
        norm = self.norm()
        mtp = hf.predictors(self.num_nextn_predict_layers, norm, [full, sparse])
        return ModelConfig(family=family, **self.common(), **hf.prenorm(norm, modules), mtp=mtp)


class Keys(BailingKeys):
    """HANDLED keys of config.json."""

    num_key_value_heads: hf.Count = 4

    def attention(self) -> SoftmaxConfig:
        """Grouped-query attention of the full layers."""
        rope = self.rope_parameters.of_head(self.head_dim)
        return hf.build(SoftmaxConfig, self, ATTENTION, qk_norm=self.norm() if self.use_qk_norm else None, rope=rope)


def bailing_keys(config: ModelConfig) -> dict:
    """The inverse of `BailingKeys.model`."""
    moe, mlp = hf.first(config, "moe"), hf.first(config, "mlp")
    keys = {
        **hf.common_keys(config),
        "first_k_dense_replace": [sub.module.kind for sub in config.sublayers].count("mlp"),
        "intermediate_size": mlp.intermediate_dim if mlp else 1,
        "num_nextn_predict_layers": len(config.mtp),
        **hf.publish(moe, MOE),
        **hf.publish(moe and moe.router, ROUTER),
    }
    if moe:
        is_multiple = moe.shared_dim % moe.expert_dim == 0
        keys["num_shared_experts"] = moe.shared_dim // moe.expert_dim if is_multiple else 1
        keys["moe_shared_expert_intermediate_size"] = moe.expert_dim if is_multiple else moe.shared_dim
    return keys


def attention_keys(attention: SoftmaxConfig) -> dict:
    """The inverse of `Keys.attention`."""
    keys = {**hf.publish(attention, ATTENTION), "use_qk_norm": attention.qk_norm is not None}
    return keys | (hf.rope_keys(attention.rope, attention.head_dim) if attention.rope else {})


def from_published(keys: Keys) -> ModelConfig:
    """config.json -> ModelConfig."""
    full = keys.attention()
    return keys.model("bailing_moe_v2", [full] * keys.num_hidden_layers, full)


def to_published(config: ModelConfig) -> dict:
    """ModelConfig -> config.json."""
    attention = hf.first(config, "softmax")
    return bailing_keys(config) | (attention_keys(attention) if attention else {})


TRUNK = (*weights("model.", "word_embeddings embed", "norm norm"), *weights("", "lm_head head"))
QKV = fuse("attention.query_key_value.weight", [f"{name}.weight" for name in "qkv"])
QK_NORMS = weights("attention.", "query_layernorm q_norm", "key_layernorm k_norm")
CHANNEL_MIXERS = {
    "mlp": weights("mlp.", *SWIGLU),
    "moe": (
        rename("mlp.gate.weight", "router"),
        rename("mlp.gate.expert_bias", "router_bias"),
        *(stack(f"mlp.experts.{{}}.{name}_proj.weight", f"experts_{name}") for name in ("gate", "up", "down")),
        *weights("mlp.shared_experts.", *SWIGLU, ours="shared."),
    ),
}
SOFTMAX = (QKV, *QK_NORMS, *weights("attention.", "dense o"))
NAMES = {"softmax": SOFTMAX, **CHANNEL_MIXERS}

# fmt: off
TINY_COMMON = {
    "vocab_size": 97, "hidden_size": 48, "intermediate_size": 80, "max_position_embeddings": 512, "eos_token_id": 96,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 20, "partial_rotary_factor": 0.6,
    "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 20, "n_group": 3, "topk_group": 2,
    "routed_scaling_factor": 2.5, "num_nextn_predict_layers": 1,
}
MINI = {
    "vocab_size": 157184, "hidden_size": 2048, "intermediate_size": 5120, "num_hidden_layers": 20,
    "routed_scaling_factor": 2.5, "partial_rotary_factor": 0.5, "pad_token_id": 156892, "eos_token_id": 156892,
    "num_experts": 256, "num_experts_per_tok": 8, "n_group": 8, "topk_group": 4, "num_shared_experts": 1,
    "rms_norm_eps": 1e-6, "first_k_dense_replace": 1, "moe_intermediate_size": 512,
}
FLASH = MINI | {
    "hidden_size": 4096, "intermediate_size": 9216, "num_hidden_layers": 32, "num_attention_heads": 32,
    "moe_intermediate_size": 1024,
}
LING = {"rope_theta": 600000.0, "max_position_embeddings": 32768, "eos_token_id": 156895}
SIZES = {"Ling-mini-2.0": MINI | LING, "Ling-flash-2.0": FLASH | LING}
ASSUMED = dict.fromkeys(("rope_theta", "partial_rotary_factor", "rms_norm_eps", "eos_token_id"), "as in Ling-flash-2.0")
# fmt: on

FAMILY = Family(
    name="bailing_moe_v2",
    schema=Keys,
    from_published=from_published,
    to_published=to_published,
    architecture="BailingMoeV2ForCausalLM",
    names=NAMES,
    trunk=TRUNK,
    ignored=IGNORED,
    mtp=BAILING,
    marker="moe_router_enable_expert_bias",
    shared_types=("bailing_moe",),
    tiny_config={**TINY_COMMON, "num_hidden_layers": 2},
    sizes=SIZES,
    assumed={"Ling-mini-2.0": ASSUMED},
)
