"""MiniMax-M2, M2.5 and M2.7: full grouped-query attention, MoE in every layer.

The trunk, with QK-norm over the whole projection before the head split, partial RoPE (64 of 128 channels) and a sigmoid
router whose bias stands beside the gate. Verified against transformers 5.23 on random weights
(tests/parity/test_parity_minimax_m2.py). config.json promises multi-token prediction; no published checkpoint holds its
tensors, which is logged.
"""

from __future__ import annotations

import logging
from typing import Literal

from pydantic import Field

from hyla.models.config import ModelConfig, MoEConfig, NormConfig, RouterConfig, SoftmaxConfig
from hyla.models.formats import published as hf
from hyla.models.formats.family import Family
from hyla.models.formats.modules import GROUPED_QUERY, QK_NORMED_ATTENTION
from hyla.models.formats.names import rename, stack

logger = logging.getLogger("hyla.models")

IGNORED = {
    "mlp_intermediate_size": "the width of a dense MLP; every layer has experts",
    "mtp_transformer_layers": "multi-token prediction, whose tensors were not published",
    "router_jitter_noise": "noise is a matter of training",
}
MOE = {
    "num_local_experts": "num_experts",
    "num_experts_per_tok": "num_experts_per_token",
    "intermediate_size": "expert_dim",
}


class Keys(hf.Published):
    """HANDLED keys of config.json."""

    num_attention_heads: hf.Count
    num_key_value_heads: hf.Count
    head_dim: hf.Count = 128
    rotary_dim: hf.Count | None = None
    rope_parameters: hf.RopeParameters = hf.RopeParameters(rope_theta=5e6)
    attn_type_list: list[Literal[1]] | None = None
    use_qk_norm: Literal[True] = True
    qk_norm_type: Literal["per_layer"] = "per_layer"
    intermediate_size: hf.Count
    num_local_experts: hf.Several
    num_experts_per_tok: hf.Count
    shared_intermediate_size: Literal[0] = 0
    scoring_func: Literal["sigmoid"] = "sigmoid"
    use_routing_bias: Literal[True] = True
    use_mtp: bool = False
    num_mtp_modules: int = Field(default=0, ge=0)


def from_published(keys: Keys) -> ModelConfig:
    """config.json -> ModelConfig."""
    if keys.use_mtp and keys.num_mtp_modules:
        logger.warning(
            "config.json promises %d multi-token prediction modules; no checkpoint of minimax_m2 holds their tensors, "
            "and the model is made without them",
            keys.num_mtp_modules,
        )
    count, norm = keys.num_hidden_layers, NormConfig(eps=keys.rms_norm_eps)
    hf.layer_list("minimax_m2", "attn_type_list", keys.attn_type_list, [1] * count, count)
    rope = keys.rope_parameters.of_head(keys.head_dim, rotary_dim=keys.rotary_dim)
    attention = hf.build(SoftmaxConfig, keys, GROUPED_QUERY, qk_norm=norm, qk_norm_scope="projection", rope=rope)
    moe = hf.build(MoEConfig, keys, MOE, router=RouterConfig(score="sigmoid", has_bias=True))
    return ModelConfig(family="minimax_m2", **keys.common(), **hf.prenorm(norm, [attention, moe] * count))


def to_published(config: ModelConfig) -> dict:
    """ModelConfig -> config.json."""
    attention, moe = hf.first(config, SoftmaxConfig), hf.first(config, MoEConfig)
    rope = {}
    if attention and attention.rope:
        rope = {**hf.rope_keys(attention.rope, attention.head_dim), "rotary_dim": attention.rope.rotary_dim}
    return {
        **hf.common_keys(config),
        **hf.publish(attention, GROUPED_QUERY),
        **rope,
        "attn_type_list": [1] * len(config.mixers),
        "use_qk_norm": True,
        "qk_norm_type": "per_layer",
        **hf.publish(moe, MOE),
        "scoring_func": "sigmoid",
        "use_routing_bias": True,
        "shared_intermediate_size": 0,
        "use_mtp": False,
    }


MOE_NAME = "block_sparse_moe."
NAMES = {
    "softmax": QK_NORMED_ATTENTION,
    "moe": (
        rename(f"{MOE_NAME}gate.weight", "router"),
        rename(f"{MOE_NAME}e_score_correction_bias", "router_bias"),
        stack(f"{MOE_NAME}experts.{{}}.w1.weight", "experts_gate"),
        stack(f"{MOE_NAME}experts.{{}}.w3.weight", "experts_up"),
        stack(f"{MOE_NAME}experts.{{}}.w2.weight", "experts_down"),
    ),
}


def _size(length: int) -> dict:
    return {
        "vocab_size": 200064,
        "hidden_size": 3072,
        "intermediate_size": 1536,
        "num_hidden_layers": 62,
        "num_attention_heads": 48,
        "num_key_value_heads": 8,
        "num_local_experts": 256,
        "num_experts_per_tok": 8,
        "rotary_dim": 64,
        "rope_theta": 5e6,
        "max_position_embeddings": length,
    }


FAMILY = Family(
    name="minimax_m2",
    schema=Keys,
    from_published=from_published,
    to_published=to_published,
    architecture="MiniMaxM2ForCausalLM",
    names=NAMES,
    ignored=IGNORED,
    tiny_config={
        "vocab_size": 97,
        "hidden_size": 48,
        "intermediate_size": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 20,
        "rotary_dim": 10,
        "rope_theta": 5e6,
        "num_local_experts": 5,
        "num_experts_per_tok": 2,
        "max_position_embeddings": 512,
        "eos_token_id": 96,
    },
    sizes={"MiniMax-M2": _size(196608), "MiniMax-M2.5": _size(196608), "MiniMax-M2.7": _size(204800)},
    assumed={"MiniMax-M2.5": {"max_position_embeddings": "that of MiniMax-M2"}},
)
