"""The mixers whose memory is a state of fixed size: delta rules, decays, state spaces, linear attention."""

from __future__ import annotations

from hyla.layers.tables import gated_delta, gla, kda, lightning, linear, mamba2
from hyla.models.config import (
    GatedDeltaConfig,
    GLAConfig,
    KDAConfig,
    LightningConfig,
    LinearAttentionConfig,
    Mamba2Config,
)
from hyla.models.kinds.arguments import fields_without, lightning_arguments, lightning_sizes
from hyla.models.kinds.kind import Calibration, Kind
from hyla.models.kinds.work import Recurrence

HEADS = (4, 16)
"""Heads at which a recurrence is timed, with 64 channels each."""


def _gated_delta(config: GatedDeltaConfig) -> Recurrence:
    channels = 2 * config.num_key_heads * config.key_dim + config.num_value_heads * config.value_dim
    return Recurrence(
        dims={"num_value_heads": config.num_value_heads, "key_dim": config.key_dim, "value_dim": config.value_dim},
        shared={"num_key_heads": config.num_key_heads},
        conv_channels=channels if config.conv_len else 0,
        conv_taps=config.conv_len,
    )


def _kda(config: KDAConfig) -> Recurrence:
    return Recurrence(
        dims={"num_heads": config.num_heads, "key_dim": config.key_dim, "value_dim": config.value_dim},
        conv_channels=config.num_heads * (2 * config.key_dim + config.value_dim) if config.conv_len else 0,
        conv_taps=config.conv_len,
    )


def _gla(config: GLAConfig) -> Recurrence:
    return Recurrence({"num_heads": config.num_heads, "key_dim": config.key_dim, "value_dim": config.value_dim})


def _lightning(config: LightningConfig) -> Recurrence:
    return Recurrence({"num_heads": config.num_heads, "key_dim": config.head_dim, "value_dim": config.head_dim})


def _mamba2(config: Mamba2Config) -> Recurrence:
    channels = config.num_heads * config.head_dim + 2 * config.num_groups * config.state_dim
    return Recurrence(
        dims={"num_heads": config.num_heads, "key_dim": config.state_dim, "value_dim": config.head_dim},
        shared={"num_groups": config.num_groups},
        conv_channels=channels if config.conv_len else 0,
        conv_taps=config.conv_len,
    )


def _linear(config: LinearAttentionConfig) -> Recurrence:
    return Recurrence({"num_heads": config.num_heads, "key_dim": config.key_dim, "value_dim": config.value_dim})


RECURRENCES = (
    Kind(
        config=GatedDeltaConfig,
        layer="hyla.layers.gated_delta:GatedDelta",
        table=gated_delta.parameters,
        sizes=fields_without("norm_eps", "negative_eigenvalues", "state_dtype"),
        label="gated delta",
        operator="gated_delta",
        work=_gated_delta,
        calibration=Calibration(
            tuple(
                GatedDeltaConfig(num_key_heads=heads // 2, num_value_heads=heads, key_dim=64, value_dim=64)
                for heads in HEADS
            )
        ),
    ),
    Kind(
        config=KDAConfig,
        layer="hyla.layers.kda:KDA",
        table=kda.parameters,
        sizes=fields_without("norm_eps", "decay_lower_bound", "negative_eigenvalues", "state_dtype"),
        label="KDA",
        operator="kda",
        work=_kda,
        calibration=Calibration(
            tuple(KDAConfig(num_heads=heads, key_dim=64, value_dim=64, gate_rank=64) for heads in HEADS)
        ),
    ),
    Kind(
        config=GLAConfig,
        layer="hyla.layers.gla:GLA",
        table=gla.parameters,
        sizes=fields_without("decay_divisor", "norm_eps", "state_dtype"),
        label="GLA",
        operator="gla",
        work=_gla,
        calibration=Calibration(tuple(GLAConfig(num_heads=heads, key_dim=64, value_dim=64) for heads in HEADS)),
    ),
    Kind(
        config=LightningConfig,
        layer="hyla.layers.lightning:Lightning",
        table=lightning.parameters,
        sizes=lightning_sizes,
        label="lightning",
        operator="lightning",
        arguments=lightning_arguments,
        work=_lightning,
        calibration=Calibration(
            tuple(
                LightningConfig(num_heads=heads, head_dim=64, slopes="minimax", layer=0, num_layers=2)
                for heads in HEADS
            )
        ),
    ),
    Kind(
        config=Mamba2Config,
        layer="hyla.layers.mamba2:Mamba2",
        table=mamba2.parameters,
        sizes=fields_without("norm_eps", "time_step_limit", "state_dtype"),
        label="Mamba-2",
        operator="ssd",
        work=_mamba2,
        calibration=Calibration(
            tuple(Mamba2Config(num_heads=heads, head_dim=64, num_groups=2, state_dim=64) for heads in HEADS)
        ),
    ),
    Kind(
        config=LinearAttentionConfig,
        layer="hyla.layers.linear_attention:LinearAttention",
        table=linear.parameters,
        sizes=fields_without("eps", "state_dtype"),
        label="linear",
        operator="linear",
        work=_linear,
        calibration=Calibration(
            tuple(LinearAttentionConfig(num_heads=heads, key_dim=64, value_dim=64) for heads in HEADS)
        ),
    ),
)
