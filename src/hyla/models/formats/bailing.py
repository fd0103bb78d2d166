"""What the formats of Ling and Ring share, from 2.0 on: keys, channel mixers, names, sizes. DeepSeek's router in all.

Queries, keys and values are one published matrix, block after block.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hyla.models.config import MixerConfig, MLPConfig, ModelConfig, MoEConfig, NormConfig, RouterConfig
from hyla.models.formats import published as hf
from hyla.models.formats.modules import EXPERTS
from hyla.models.formats.names import SWIGLU, fuse, rename, weights

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


def bailing_keys(config: ModelConfig) -> dict:
    """The inverse of `BailingKeys.model`."""
    moe, mlp = hf.first(config, MoEConfig), hf.first(config, MLPConfig)
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


TRUNK = (*weights("model.", "word_embeddings embed", "norm norm"), *weights("", "lm_head head"))
QKV = fuse("attention.query_key_value.weight", [f"{name}.weight" for name in "qkv"])
QK_NORMS = weights("attention.", "query_layernorm q_norm", "key_layernorm k_norm")
CHANNEL_MIXERS = {
    "mlp": weights("mlp.", *SWIGLU),
    "moe": (
        rename("mlp.gate.weight", "router"),
        rename("mlp.gate.expert_bias", "router_bias"),
        *EXPERTS,
        *weights("mlp.shared_experts.", *SWIGLU, ours="shared."),
    ),
}

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
# fmt: on
