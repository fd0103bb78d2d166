"""The dense channel mixer."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from hyla.layers.linear import Linear, Projection
from hyla.ops.exact.primitives import relu2, swiglu


class MLP(nn.Module):
    """SwiGLU, down(silu(gate x) * up x), gate and up as one product; or relu2, down(relu(up x)^2), without a gate."""

    fp32_parameters: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()

    def __init__(self, hidden_dim: int, *, intermediate_dim: int, activation: Literal["swiglu", "relu2"] = "swiglu"):
        super().__init__()
        self.gate = Linear(hidden_dim, intermediate_dim) if activation == "swiglu" else None
        self.up = Linear(hidden_dim, intermediate_dim)
        self.down = Linear(intermediate_dim, hidden_dim)
        self.inputs = (self.up,) if self.gate is None else (self.gate, self.up)
        self.gate_up_projection = Projection(*self.inputs)
        self.down_projection = Projection(self.down)
        self.projections = (self.gate_up_projection, self.down_projection)

    def forward(self, x_TD: torch.Tensor) -> torch.Tensor:
        products = self.gate_up_projection(x_TD)
        act_TF = relu2(*products) if self.gate is None else swiglu(*products)
        return self.down_projection(act_TF)[0]

    def initialize(self, std: float, generator: torch.Generator) -> None:
        """Normal(0, std) weights."""
        for linear in (*self.inputs, self.down):
            nn.init.normal_(linear.weight, std=std, generator=generator)
