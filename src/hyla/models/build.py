"""From a sublayer's config to its module: the only place that knows both."""

from __future__ import annotations

from torch import nn

from hyla.layers.gated_delta import GatedDelta
from hyla.layers.kda import KDA
from hyla.layers.linear_attention import LinearAttention
from hyla.layers.mla import MLA
from hyla.layers.mlp import MLP
from hyla.layers.moe import MoE
from hyla.layers.softmax import SoftmaxAttention
from hyla.models.config import (
    ChannelMixerConfig,
    GatedDeltaConfig,
    KDAConfig,
    LinearAttentionConfig,
    MixerConfig,
    MLAConfig,
    MLPConfig,
    MoEConfig,
    RopeConfig,
    SoftmaxConfig,
)


def _rope(config: RopeConfig | None) -> dict:
    """A position code as flat arguments; rotary_dim 0: none."""
    if config is None:
        return {"rotary_dim": 0, "rope_theta": 10000.0, "rope_interleaved": False}
    return {"rotary_dim": config.rotary_dim, "rope_theta": config.theta, "rope_interleaved": config.interleaved}


def _softmax(config: SoftmaxConfig, hidden_dim: int) -> SoftmaxAttention:
    return SoftmaxAttention(
        hidden_dim,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        has_output_gate=config.output_gate,
        qk_norm_eps=config.qk_norm.eps if config.qk_norm else None,
        qk_norm_zero_centered=bool(config.qk_norm and config.qk_norm.zero_centered),
        **_rope(config.rope),
    )


def _mla(config: MLAConfig, hidden_dim: int) -> MLA:
    fields = config.model_dump(exclude={"kind", "rope"})
    return MLA(hidden_dim, **fields, **_rope(config.rope))


def _plain(module: type[nn.Module]):
    """For a module whose keyword arguments are exactly its config's fields."""

    def build(config, hidden_dim: int) -> nn.Module:
        return module(hidden_dim, **config.model_dump(exclude={"kind"}))

    return build


def _moe(config: MoEConfig, hidden_dim: int) -> MoE:
    router = config.router
    return MoE(
        hidden_dim,
        num_experts=config.num_experts,
        num_experts_per_token=config.num_experts_per_token,
        expert_dim=config.expert_dim,
        shared_dim=config.shared_dim,
        has_shared_gate=config.shared_gate,
        score=router.score,
        has_bias=router.has_bias,
        normalize=router.normalize,
        num_groups=router.num_groups,
        num_groups_kept=router.num_groups_kept,
        scaling=router.scaling,
    )


BUILDERS = {
    SoftmaxConfig: _softmax,
    MLAConfig: _mla,
    GatedDeltaConfig: _plain(GatedDelta),
    KDAConfig: _plain(KDA),
    LinearAttentionConfig: _plain(LinearAttention),
    MLPConfig: _plain(MLP),
    MoEConfig: _moe,
}


def build_module(config: MixerConfig | ChannelMixerConfig, hidden_dim: int) -> nn.Module:
    """The module of a sublayer."""
    return BUILDERS[type(config)](config, hidden_dim)
