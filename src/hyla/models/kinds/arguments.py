"""From a module's config to the keyword arguments of its layer, and to those of its table of parameters (sizes).

Without PyTorch, so that parameters are counted before any is made. A kind whose arguments are its config's fields needs
no function here.
"""

from __future__ import annotations

from collections.abc import Callable

from hyla.layers.rope_scaling import FactorsScaling, LinearScaling, Llama3Scaling, Scaling, YarnScaling, yarn_magnitude
from hyla.layers.slopes import slopes
from hyla.models.config import (
    FactorsScalingConfig,
    LightningConfig,
    LinearScalingConfig,
    Llama3ScalingConfig,
    MLAConfig,
    MLPConfig,
    ModuleConfig,
    MoEConfig,
    RopeConfig,
    SoftmaxConfig,
    YarnScalingConfig,
)
from hyla.ops.activations import ACTIVATIONS


def fields(config: ModuleConfig) -> dict:
    """Arguments of a layer that takes exactly its config's fields."""
    return config.model_dump(exclude={"kind"})


def fields_without(*others: str) -> Callable[[ModuleConfig], dict]:
    """Sizes for a table that takes the config's fields, but for `others`, which shape no parameter."""
    left_out = {"kind", *others}
    return lambda config: config.model_dump(exclude=left_out)


def _rope(config: RopeConfig | None) -> dict:
    """A position code as flat arguments; rotary_dim 0: none."""
    if config is None:
        return {"rotary_dim": 0, "rope_theta": 10000.0, "rope_interleaved": False}
    rope = {"rotary_dim": config.rotary_dim, "rope_theta": config.theta, "rope_interleaved": config.interleaved}
    # A layer that no published model scales need not know the word.
    return rope if config.scaling is None else {**rope, "rope_scaling": scaling_of(config.scaling)}


def scaling_of(
    config: LinearScalingConfig | Llama3ScalingConfig | YarnScalingConfig | FactorsScalingConfig,
) -> Scaling:
    """The scaling that a config describes."""
    if config.kind == "factors":
        return FactorsScaling(config.factors)
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


def softmax_arguments(config: SoftmaxConfig) -> dict:
    """Arguments of `layers.softmax.SoftmaxAttention`."""
    return {
        "num_heads": config.num_heads,
        "num_kv_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "has_output_gate": config.output_gate,
        "qk_norm_eps": config.qk_norm.eps if config.qk_norm else None,
        "qk_norm_zero_centered": bool(config.qk_norm and config.qk_norm.zero_centered),
        "qk_norm_scope": config.qk_norm_scope,
        "window": config.window,
        "has_sinks": config.sinks,
        "value_dim": config.value_dim,
        "value_scale": config.value_scale,
        "qkv_bias": config.qkv_bias,
        "out_bias": config.out_bias,
        "gate_activation": config.gate_activation,
        **_rope(config.rope),
    }


def softmax_sizes(config: SoftmaxConfig) -> dict:
    """Sizes for `layers.tables.softmax`."""
    return {
        "num_heads": config.num_heads,
        "num_kv_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "value_dim": config.value_dim,
        "has_output_gate": config.output_gate,
        "qk_norm_scope": config.qk_norm_scope if config.qk_norm else None,
        "has_sinks": config.sinks,
        "qkv_bias": config.qkv_bias,
        "out_bias": config.out_bias,
    }


def mla_arguments(config: MLAConfig) -> dict:
    """Arguments of `layers.mla.MLA` and `layers.sparse_mla.SparseMLA`."""
    return {**config.model_dump(exclude={"kind", "rope"}), **_rope(config.rope)}


def lightning_arguments(config: LightningConfig) -> dict:
    """Arguments of `layers.lightning.Lightning`."""
    return {
        "num_heads": config.num_heads,
        "head_dim": config.head_dim,
        "slopes": slopes(config.num_heads, schedule=config.slopes, layer=config.layer, num_layers=config.num_layers),
        "has_silu": config.silu,
        "qk_norm_eps": config.qk_norm.eps if config.qk_norm else None,
        "scale": config.head_dim**-0.5 if config.scaled else 1.0,
        "norm_groups": config.norm_groups,
        "norm_eps": config.norm_eps,
        "output_gate": config.output_gate,
        "state_dtype": config.state_dtype,
        **_rope(config.rope),
    }


def lightning_sizes(config: LightningConfig) -> dict:
    """Sizes for `layers.tables.lightning`."""
    return {
        "num_heads": config.num_heads,
        "head_dim": config.head_dim,
        "has_qk_norm": config.qk_norm is not None,
        "has_gate": config.output_gate != "none",
    }


def mlp_sizes(config: MLPConfig) -> dict:
    """Sizes for `layers.tables.mlp`."""
    return {
        "intermediate_dim": config.intermediate_dim,
        "has_gate": ACTIVATIONS[config.activation].has_gate,
        "has_bias": config.bias,
    }


def moe_sizes(config: MoEConfig) -> dict:
    """Sizes for `layers.tables.moe`."""
    return {
        "num_experts": config.num_experts,
        "expert_dim": config.expert_dim,
        "has_gate": ACTIVATIONS[config.activation].has_gate,
        "has_bias": config.router.has_bias,
        "shared_dim": config.shared_dim,
        "has_shared_gate": config.shared_gate,
        "latent_dim": config.latent_dim,
    }


def moe_arguments(config: MoEConfig) -> dict:
    """Arguments of `layers.moe.MoE`."""
    router = config.router
    return {
        "num_experts": config.num_experts,
        "num_experts_per_token": config.num_experts_per_token,
        "expert_dim": config.expert_dim,
        "shared_dim": config.shared_dim,
        "has_shared_gate": config.shared_gate,
        "score": router.score,
        "has_bias": router.has_bias,
        "normalize": router.normalize,
        "num_groups": router.num_groups,
        "num_groups_kept": router.num_groups_kept,
        "scaling": router.scaling,
        "activation": config.activation,
        "latent_dim": config.latent_dim,
    }
