"""Qwen3.5, mixture of experts: text tower (Qwen/Qwen3.5-35B-A3B, 122B-A10B, 397B-A17B).

Qwen3.5 dense, except: experts with a sigmoid-gated shared one in every layer, stored as one tensor of all experts
(`gate_up_proj` [E, 2 I, D]) in the trunk and one by one in the MTP module. Qwen3.6 stores them in one tensor there too,
transformers saves all of them one by one: each block is read either way. Reads the multimodal `qwen3_5_moe` folders and
`qwen3_5_moe_text`; writes the latter. Verified against transformers 5.23 on random weights
(tests/parity/test_parity_qwen3_5_moe.py).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from hyla.models.config import ModelConfig, MoEConfig
from hyla.models.families.qwen3_5 import COMMON_SIZE, IGNORED, IGNORED_TENSORS, MIXER_NAMES, TEXT_ALIASES
from hyla.models.families.qwen3_next import (
    MOE,
    MTP_NAMES,
    ROUTER_AND_SHARED,
    SPARSE,
    TINY,
    TINY_MOE,
    HybridKeys,
    hybrid_keys,
)
from hyla.models.formats import published as hf
from hyla.models.formats.family import Family
from hyla.models.formats.names import fuse_experts, rename


class Keys(HybridKeys):
    """HANDLED keys of config.json (of its text_config)."""

    num_experts: hf.Several = 256
    num_experts_per_tok: hf.Count = 8
    moe_intermediate_size: hf.Count = 512
    shared_expert_intermediate_size: hf.Count = 512
    norm_topk_prob: Literal[True] = True
    attn_output_gate: Literal[True] = True
    output_gate_type: Literal["swish"] = "swish"
    mtp_num_hidden_layers: Literal[0, 1] = 1
    mtp_use_dedicated_embeddings: Literal[False] = False


def from_published(keys: Keys) -> ModelConfig:
    """config.json -> ModelConfig."""
    experts = hf.build(MoEConfig, keys, MOE, shared_gate=True)
    modules = [module for mixer in keys.mixers("qwen3_5_moe") for module in (mixer, experts)]
    mtp = keys.mtp(keys.mtp_num_hidden_layers, experts)
    return ModelConfig(family="qwen3_5_moe_text", **keys.common(), **hf.prenorm(keys.norm(), modules), mtp=mtp)


def to_published(config: ModelConfig) -> dict:
    """ModelConfig -> config.json."""
    return {
        **hybrid_keys(config),
        **hf.publish(hf.first(config, MoEConfig), MOE),
        "mtp_num_hidden_layers": len(config.mtp),
    }


FUSED_EXPERTS = (
    fuse_experts("mlp.experts.gate_up_proj", "experts_gate", "experts_up"),
    rename("mlp.experts.down_proj", "experts_down"),
    *ROUTER_AND_SHARED,
)


def _size(hidden: int, layers: int, heads: int, value_heads: int, experts: tuple[int, int, int]) -> dict:
    """experts: how many, how many of them per token, their intermediate size."""
    return {
        **COMMON_SIZE,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "linear_num_value_heads": value_heads,
        "num_experts": experts[0],
        "num_experts_per_tok": experts[1],
        "moe_intermediate_size": experts[2],
        "shared_expert_intermediate_size": experts[2],
    }


FAMILY = Family(
    name="qwen3_5_moe_text",
    schema=Keys,
    from_published=from_published,
    to_published=to_published,
    architecture="Qwen3_5MoeForCausalLM",
    names={**MIXER_NAMES, "moe": FUSED_EXPERTS},
    mtp=replace(MTP_NAMES, names={"moe": SPARSE}),
    aliases=TEXT_ALIASES,
    text_key="text_config",
    ignored=IGNORED,
    ignored_tensors=IGNORED_TENSORS,
    tiny_config={**TINY, **TINY_MOE},
    sizes={
        "Qwen3.5-35B-A3B": _size(2048, 40, 16, 32, (256, 8, 512)),
        "Qwen3.5-122B-A10B": _size(3072, 48, 32, 64, (256, 8, 1024)),
        "Qwen3.5-397B-A17B": _size(4096, 60, 32, 64, (512, 10, 1024)),
    },
)
