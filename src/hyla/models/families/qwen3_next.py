"""Qwen3-Next: three gated delta layers to one gated attention layer, MoE with a gated shared expert.

The trunk, with zero-centred norms outside the gated delta mixer, partial RoPE and output gates. Verified against
transformers 5.23 on random weights (tests/parity), the MTP module against its formulas (tests/models/test_mtp.py).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hyla.models.config import (
    GatedDeltaConfig,
    MLPConfig,
    ModelConfig,
    MoEConfig,
    MTPConfig,
    NormConfig,
    RouterConfig,
    SoftmaxConfig,
)
from hyla.models.formats import published as hf
from hyla.models.formats.family import Family
from hyla.models.formats.modules import EXPERTS, GROUPED_QUERY, MLP
from hyla.models.formats.mtp_names import MTPNames
from hyla.models.formats.names import SWIGLU, fuse, rename, reshape, weights

IGNORED = {"use_sliding_window": "no layer of this family has a window"}

# fmt: off
# Published key: field of our config.
DELTA = {
    "linear_num_key_heads": "num_key_heads", "linear_num_value_heads": "num_value_heads",
    "linear_key_head_dim": "key_dim", "linear_value_head_dim": "value_dim", "linear_conv_kernel_dim": "conv_len",
}
MOE = {
    "num_experts": "num_experts", "num_experts_per_tok": "num_experts_per_token",
    "moe_intermediate_size": "expert_dim", "shared_expert_intermediate_size": "shared_dim",
}
# fmt: on
ROUTER = {"norm_topk_prob": "normalize"}
LAYER_KINDS = {"softmax": "full_attention", "gated_delta": "linear_attention"}


class HybridKeys(hf.Published):
    """HANDLED keys of the attention layers, which Qwen3.5 shares."""

    num_attention_heads: hf.Count = 16
    num_key_value_heads: hf.Count = 2
    head_dim: hf.Count = 256
    rope_parameters: hf.RopeParameters = hf.RopeParameters()
    layer_types: hf.LayerTypes | None = None
    full_attention_interval: hf.Count = 4
    linear_conv_kernel_dim: hf.Count = 4
    linear_key_head_dim: hf.Count = 128
    linear_value_head_dim: hf.Count = 128
    linear_num_key_heads: hf.Count = 16
    linear_num_value_heads: hf.Count = 32

    def norm(self) -> NormConfig:
        return NormConfig(eps=self.rms_norm_eps, zero_centered=True)

    def attention(self) -> SoftmaxConfig:
        rope = self.rope_parameters.of_head(self.head_dim, default_factor=0.25)
        return hf.build(SoftmaxConfig, self, GROUPED_QUERY, qk_norm=self.norm(), rope=rope, output_gate=True)

    def mtp(self, count: int, channel_mixer: MLPConfig | MoEConfig) -> tuple[MTPConfig, ...]:
        """The multi-token prediction module, if any: one full-attention layer, whatever the layers of the trunk."""
        return hf.predictors(count, self.norm(), [self.attention(), channel_mixer])

    def mixers(self, family: str) -> list[SoftmaxConfig | GatedDeltaConfig]:
        """The mixer of each layer."""
        delta = hf.build(GatedDeltaConfig, self, DELTA, norm_eps=self.rms_norm_eps)
        mixers = {"full_attention": self.attention(), "linear_attention": delta}
        period, count = self.full_attention_interval, self.num_hidden_layers
        default = ["full_attention" if (i + 1) % period == 0 else "linear_attention" for i in range(count)]
        return [mixers[kind] for kind in hf.layer_list(family, "layer_types", self.layer_types, default, count)]


def hybrid_keys(config: ModelConfig) -> dict:
    """The inverse of `HybridKeys`."""
    attention = hf.first(config, SoftmaxConfig)
    return {
        **hf.common_keys(config),
        "layer_types": [LAYER_KINDS.get(mixer.kind, mixer.kind) for mixer in config.mixers],
        **hf.publish(attention, GROUPED_QUERY),
        **(hf.rope_keys(attention.rope, attention.head_dim) if attention and attention.rope else {}),
        **hf.publish(hf.first(config, GatedDeltaConfig), DELTA),
        **hf.publish(hf.first(config, MLPConfig), MLP),
    }


class Keys(HybridKeys):
    """HANDLED keys of config.json."""

    intermediate_size: hf.Count = 5632
    decoder_sparse_step: hf.Count = 1
    mlp_only_layers: list[int] = []  # noqa: RUF012 (pydantic copies defaults)
    num_experts: int = Field(default=512, ge=0, le=16384)
    num_experts_per_tok: hf.Count = 10
    moe_intermediate_size: hf.Count = 512
    shared_expert_intermediate_size: hf.Count = 512
    norm_topk_prob: bool = True
    num_nextn_predict_layers: Literal[0, 1] = 1
    """MTP modules. The published config.json does not say it; its checkpoint has one."""

    def experts(self) -> MoEConfig:
        return hf.build(MoEConfig, self, MOE, shared_gate=True, router=hf.build(RouterConfig, self, ROUTER))


def from_published(keys: Keys) -> ModelConfig:
    """config.json -> ModelConfig."""
    dense = hf.build(MLPConfig, keys, MLP)
    modules = []
    for layer, mixer in enumerate(keys.mixers("qwen3_next")):
        is_dense = layer in keys.mlp_only_layers or keys.num_experts == 0 or (layer + 1) % keys.decoder_sparse_step
        modules += [mixer, dense if is_dense else keys.experts()]
    mtp = keys.mtp(keys.num_nextn_predict_layers, keys.experts() if keys.num_experts else dense)
    return ModelConfig(family="qwen3_next", **keys.common(), **hf.prenorm(keys.norm(), modules), mtp=mtp)


def to_published(config: ModelConfig) -> dict:
    """ModelConfig -> config.json."""
    moe = hf.first(config, MoEConfig)
    kinds = [sub.module.kind for sub in config.sublayers[1::2]]
    return {
        **hybrid_keys(config),
        "mlp_only_layers": [layer for layer, kind in enumerate(kinds) if kind == "mlp"],
        **hf.publish(moe, MOE),
        **hf.publish(moe and moe.router, ROUTER),
        "num_nextn_predict_layers": len(config.mtp),
    }


GATED_ATTENTION = (
    fuse("self_attn.q_proj.weight", ("q.weight", "gate.weight"), groups="num_heads"),
    *weights("self_attn.", "k_proj k", "v_proj v", "o_proj o", "q_norm q_norm", "k_norm k_norm"),
)
GATED_DELTA = (
    reshape("linear_attn.conv1d.weight", "conv_weight", (0, 1, -1)),
    *(rename(f"linear_attn.{name}", name) for name in ("A_log", "dt_bias")),
    *weights("linear_attn.", "norm norm", "out_proj o"),
)
ROUTER_AND_SHARED = (
    rename("mlp.gate.weight", "router"),
    *weights("mlp.shared_expert.", *SWIGLU, ours="shared."),
    *weights("mlp.", "shared_expert_gate shared_gate"),
)
SPARSE = (*EXPERTS, *ROUTER_AND_SHARED)
NAMES = {
    "softmax": GATED_ATTENTION,
    "gated_delta": (
        fuse("linear_attn.in_proj_qkvz.weight", [f"{name}.weight" for name in "qkvz"], groups="num_key_heads"),
        fuse("linear_attn.in_proj_ba.weight", ("b.weight", "a.weight"), groups="num_key_heads"),
        *GATED_DELTA,
    ),
    "mlp": weights("mlp.", *SWIGLU),
    "moe": SPARSE,
}
MTP_NAMES = MTPNames(
    prefix="mtp.",
    own=weights("", "pre_fc_norm_embedding embed_norm", "pre_fc_norm_hidden hidden_norm", "fc merge", "norm norm"),
    layer_prefix="mtp.layers.{layer}.",
)

# fmt: off
TINY = {
    "vocab_size": 97, "hidden_size": 44, "num_hidden_layers": 4, "max_position_embeddings": 512, "eos_token_id": 96,
    "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 24, "partial_rotary_factor": 0.25,
    "linear_num_key_heads": 2, "linear_num_value_heads": 6, "linear_key_head_dim": 8, "linear_value_head_dim": 12,
}
TINY_MOE = {
    "num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 20, "shared_expert_intermediate_size": 28,
}
SIZES = {
    "Qwen3-Next-80B-A3B": {
        "vocab_size": 151936, "hidden_size": 2048, "num_hidden_layers": 48, "max_position_embeddings": 262144,
        "rope_theta": 1e7, "partial_rotary_factor": 0.25,
    }
}
# fmt: on

FAMILY = Family(
    name="qwen3_next",
    schema=Keys,
    from_published=from_published,
    to_published=to_published,
    architecture="Qwen3NextForCausalLM",
    names=NAMES,
    ignored=IGNORED,
    mtp=MTP_NAMES,
    tiny_config={**TINY, **TINY_MOE},
    sizes=SIZES,
)
