"""Qwen3, mixture of experts: the full-attention baseline (arXiv 2505.09388; Qwen3-30B-A3B, Qwen3-235B-A22B).

Qwen3, except for the routed experts in place of the MLPs. Verified against transformers 5.23 on random weights
(tests/parity/test_parity_qwen3_moe.py).
"""

from __future__ import annotations

from typing import Literal

from pydantic import AliasChoices, Field

from hyla.models.config import MLPConfig, ModelConfig, MoEConfig, NormConfig, RouterConfig, SoftmaxConfig
from hyla.models.families import qwen3
from hyla.models.formats import published as hf
from hyla.models.formats.family import Family
from hyla.models.formats.modules import EXPERTS, GROUPED_QUERY, MLP
from hyla.models.formats.names import rename

MOE = {
    "num_experts": "num_experts",
    "num_experts_per_tok": "num_experts_per_token",
    "moe_intermediate_size": "expert_dim",
}
ROUTER = {"norm_topk_prob": "normalize"}
COUNT = AliasChoices("num_experts", "num_local_experts")


class Keys(hf.Published):
    """HANDLED keys of config.json."""

    intermediate_size: hf.Count = 6144
    num_attention_heads: hf.Count = 32
    num_key_value_heads: hf.Count = 4
    head_dim: hf.Count | None = None
    rope_parameters: hf.RopeParameters = hf.RopeParameters()
    use_sliding_window: Literal[False] = False
    decoder_sparse_step: hf.Count = 1
    mlp_only_layers: list[int] = []  # noqa: RUF012 (pydantic copies defaults)
    num_experts: hf.Several = Field(default=128, validation_alias=COUNT)
    num_experts_per_tok: hf.Count = 8
    moe_intermediate_size: hf.Count = 768
    norm_topk_prob: bool = False


def from_published(keys: Keys) -> ModelConfig:
    """config.json -> ModelConfig."""
    head_dim = keys.head_dim or max(1, keys.hidden_size // keys.num_attention_heads)
    keys = keys.model_copy(update={"head_dim": head_dim})
    norm, rope = NormConfig(eps=keys.rms_norm_eps), keys.rope_parameters.of_head(head_dim)
    attention = hf.build(SoftmaxConfig, keys, GROUPED_QUERY, qk_norm=norm, rope=rope)
    dense = hf.build(MLPConfig, keys, MLP)
    moe = hf.build(MoEConfig, keys, MOE, router=hf.build(RouterConfig, keys, ROUTER, score="softmax"))
    modules = []
    for layer in range(keys.num_hidden_layers):
        is_dense = layer in keys.mlp_only_layers or (layer + 1) % keys.decoder_sparse_step
        modules += [attention, dense if is_dense else moe]
    return ModelConfig(family="qwen3_moe", **keys.common(), **hf.prenorm(norm, modules))


def to_published(config: ModelConfig) -> dict:
    """ModelConfig -> config.json."""
    attention, moe = hf.first(config, SoftmaxConfig), hf.first(config, MoEConfig)
    kinds = [sub.module.kind for sub in config.sublayers[1::2]]
    return {
        **hf.common_keys(config),
        **hf.publish(attention, GROUPED_QUERY),
        **(hf.rope_keys(attention.rope, attention.head_dim) if attention and attention.rope else {}),
        "mlp_only_layers": [layer for layer, kind in enumerate(kinds) if kind == "mlp"],
        **hf.publish(hf.first(config, MLPConfig), MLP),
        **hf.publish(moe, MOE),
        **hf.publish(moe and moe.router, ROUTER),
    }


NAMES = {
    **qwen3.NAMES,
    "moe": (
        rename("mlp.gate.weight", "router"),
        *EXPERTS,
    ),
}


def _size(hidden: int, layers: int, heads: int, expert_dim: int) -> dict:
    return {
        "vocab_size": 151936,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "head_dim": 128,
        "intermediate_size": 3 * hidden,
        "moe_intermediate_size": expert_dim,
        "norm_topk_prob": True,
        "rope_theta": 1e6,
        "max_position_embeddings": 40960,
    }


FAMILY = Family(
    name="qwen3_moe",
    schema=Keys,
    from_published=from_published,
    to_published=to_published,
    architecture="Qwen3MoeForCausalLM",
    names=NAMES,
    ignored=qwen3.IGNORED,
    tiny_config={
        "vocab_size": 97,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 20,
        "num_experts": 5,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 20,
        "norm_topk_prob": True,
        "mlp_only_layers": [0],
        "max_position_embeddings": 512,
        "eos_token_id": 96,
    },
    sizes={
        "Qwen3-30B-A3B": _size(2048, 48, 32, 768),
        "Qwen3-235B-A22B": _size(4096, 94, 64, 1536),
    },
)
