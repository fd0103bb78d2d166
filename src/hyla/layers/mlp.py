"""The dense channel mixer."""

from __future__ import annotations

from typing import Literal

import torch

from hyla.layers.layer import Layer
from hyla.layers.linear import Projection
from hyla.layers.tables.mlp import parameters
from hyla.ops.exact.primitives import relu2, swiglu


class MLP(Layer):
    """SwiGLU, down(silu(gate x) * up x), gate and up as one product; or relu2, down(relu(up x)^2), without a gate."""

    operators: tuple[str, ...] = ()
    optional = ("gate",)
    gate_up_projection: Projection
    down_projection: Projection

    def __init__(self, hidden_dim: int, *, intermediate_dim: int, activation: Literal["swiglu", "relu2"] = "swiglu"):
        has_gate = activation == "swiglu"
        super().__init__(parameters(hidden_dim, intermediate_dim=intermediate_dim, has_gate=has_gate))

    def forward(self, x_TD: torch.Tensor) -> torch.Tensor:
        products = self.gate_up_projection(x_TD)
        act_TF = relu2(*products) if len(products) == 1 else swiglu(*products)
        return self.down_projection(act_TF)[0]
