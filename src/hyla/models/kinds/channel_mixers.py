"""The channel mixers."""

from __future__ import annotations

from hyla.layers.tables import mlp, moe
from hyla.models.config import MLPConfig, MoEConfig
from hyla.models.kinds.arguments import mlp_sizes, moe_arguments, moe_sizes
from hyla.models.kinds.kind import Calibration, Kind

CHANNEL_MIXERS = (
    Kind(
        config=MLPConfig,
        layer="hyla.layers.mlp:MLP",
        table=mlp.parameters,
        sizes=mlp_sizes,
        label="MLP",
        operator="projection",
        calibration=Calibration(tuple(MLPConfig(intermediate_dim=width) for width in (1024, 4096))),
    ),
    Kind(
        config=MoEConfig,
        layer="hyla.layers.moe:MoE",
        table=moe.parameters,
        sizes=moe_sizes,
        label="MoE",
        operator="experts",
        arguments=moe_arguments,
        calibration=Calibration(
            tuple(
                MoEConfig(num_experts=16, num_experts_per_token=visited, expert_dim=width)
                for visited, width in ((2, 256), (4, 768))
            )
        ),
    ),
)
