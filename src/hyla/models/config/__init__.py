"""A model as data. Every config is frozen and forbids unknown keys; all of them can be imported from here."""

from hyla.models.config.base import (
    ChannelMixerConfig,
    Config,
    Count,
    LinearScalingConfig,
    Llama3ScalingConfig,
    MixerConfig,
    ModuleConfig,
    NormConfig,
    RopeConfig,
    ScalingConfig,
    YarnScalingConfig,
)
from hyla.models.config.channel_mixers import Activation, MLPConfig, MoEConfig, RouterConfig
from hyla.models.config.mixers import (
    GatedDeltaConfig,
    KDAConfig,
    LightningConfig,
    LinearAttentionConfig,
    Mamba2Config,
    MLAConfig,
    SoftmaxConfig,
    SparseMLAConfig,
)
from hyla.models.config.model import (
    MIXER_KINDS,
    ModelConfig,
    MTPConfig,
    ScaledResidual,
    SublayerConfig,
)

__all__ = [
    "MIXER_KINDS",
    "Activation",
    "ChannelMixerConfig",
    "Config",
    "Count",
    "GatedDeltaConfig",
    "KDAConfig",
    "LightningConfig",
    "LinearAttentionConfig",
    "LinearScalingConfig",
    "Llama3ScalingConfig",
    "MLAConfig",
    "MLPConfig",
    "MTPConfig",
    "Mamba2Config",
    "MixerConfig",
    "MoEConfig",
    "ModelConfig",
    "ModuleConfig",
    "NormConfig",
    "RopeConfig",
    "RouterConfig",
    "ScaledResidual",
    "ScalingConfig",
    "SoftmaxConfig",
    "SparseMLAConfig",
    "SublayerConfig",
    "YarnScalingConfig",
]
