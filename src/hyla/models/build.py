"""From a sublayer's config to its module: the only place that knows both."""

from __future__ import annotations

from torch import nn

from hyla.layers.gated_delta import GatedDelta
from hyla.layers.kda import KDA
from hyla.layers.lightning import Lightning, slopes
from hyla.layers.linear_attention import LinearAttention
from hyla.layers.mamba2 import Mamba2
from hyla.layers.mla import MLA
from hyla.layers.mlp import MLP
from hyla.layers.moe import MoE
from hyla.layers.rope_scaling import LinearScaling, Llama3Scaling, Scaling, YarnScaling, yarn_magnitude
from hyla.layers.softmax import SoftmaxAttention
from hyla.layers.sparse_mla import SparseMLA
from hyla.models.config import (
    ChannelMixerConfig,
    GatedDeltaConfig,
    KDAConfig,
    LightningConfig,
    LinearAttentionConfig,
    LinearScalingConfig,
    Llama3ScalingConfig,
    Mamba2Config,
    MixerConfig,
    MLAConfig,
    MLPConfig,
    MoEConfig,
    RopeConfig,
    SoftmaxConfig,
    SparseMLAConfig,
    YarnScalingConfig,
)


def _rope(config: RopeConfig | None) -> dict:
    """A position code as flat arguments; rotary_dim 0: none."""
    if config is None:
        return {"rotary_dim": 0, "rope_theta": 10000.0, "rope_interleaved": False}
    rope = {"rotary_dim": config.rotary_dim, "rope_theta": config.theta, "rope_interleaved": config.interleaved}
    # A layer that no published model scales need not know the word.
    return rope if config.scaling is None else {**rope, "rope_scaling": scaling_of(config.scaling)}


def scaling_of(config: LinearScalingConfig | Llama3ScalingConfig | YarnScalingConfig) -> Scaling:
    """The scaling that a config describes."""
    if config.kind == "linear":
        return LinearScaling(config.factor)
    if config.kind == "llama3":
        return Llama3Scaling(config.factor, config.low_freq_factor, config.high_freq_factor, config.original_max_len)
    magnitude = config.attention_factor
    if magnitude is None and config.mscale and config.mscale_all_dim:
        parts = (yarn_magnitude(config.factor, weight) for weight in (config.mscale, config.mscale_all_dim))
        magnitude = next(parts) / next(parts)
    return YarnScaling(
        factor=config.factor,
        original_max_len=config.original_max_len,
        beta_fast=config.beta_fast,
        beta_slow=config.beta_slow,
        truncate=config.truncate,
        attention_factor=yarn_magnitude(config.factor) if magnitude is None else magnitude,
    )


def _softmax(config: SoftmaxConfig, hidden_dim: int) -> SoftmaxAttention:
    return SoftmaxAttention(
        hidden_dim,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        has_output_gate=config.output_gate,
        qk_norm_eps=config.qk_norm.eps if config.qk_norm else None,
        qk_norm_zero_centered=bool(config.qk_norm and config.qk_norm.zero_centered),
        qk_norm_scope=config.qk_norm_scope,
        window=config.window,
        has_sinks=config.sinks,
        value_dim=config.value_dim,
        value_scale=config.value_scale,
        **_rope(config.rope),
    )


def _mla(config: MLAConfig, hidden_dim: int) -> MLA:
    fields = config.model_dump(exclude={"kind", "rope"})
    module = SparseMLA if config.kind == "sparse_mla" else MLA
    return module(hidden_dim, **fields, **_rope(config.rope))


def _lightning(config: LightningConfig, hidden_dim: int) -> Lightning:
    return Lightning(
        hidden_dim,
        num_heads=config.num_heads,
        head_dim=config.head_dim,
        slopes=slopes(config.num_heads, schedule=config.slopes, layer=config.layer, num_layers=config.num_layers),
        has_silu=config.silu,
        qk_norm_eps=config.qk_norm.eps if config.qk_norm else None,
        scale=config.head_dim**-0.5 if config.scaled else 1.0,
        norm_groups=config.norm_groups,
        norm_eps=config.norm_eps,
        **_rope(config.rope),
    )


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
        activation=config.activation,
        latent_dim=config.latent_dim,
    )


BUILDERS = {
    SoftmaxConfig: _softmax,
    MLAConfig: _mla,
    SparseMLAConfig: _mla,
    GatedDeltaConfig: _plain(GatedDelta),
    KDAConfig: _plain(KDA),
    LightningConfig: _lightning,
    Mamba2Config: _plain(Mamba2),
    LinearAttentionConfig: _plain(LinearAttention),
    MLPConfig: _plain(MLP),
    MoEConfig: _moe,
}


def build_module(config: MixerConfig | ChannelMixerConfig, hidden_dim: int) -> nn.Module:
    """The module of a sublayer."""
    return BUILDERS[type(config)](config, hidden_dim)
