"""The dense channel mixer."""

from __future__ import annotations

import torch
from torch import nn

from hyla.layers.linear import Linear, Projection
from hyla.ops.primitives import swiglu


class MLP(nn.Module):
    """SwiGLU: down(silu(gate x) * up x), gate and up as one product."""

    fp32_parameters: tuple[str, ...] = ()

    def __init__(self, hidden_dim: int, *, intermediate_dim: int):
        super().__init__()
        self.gate = Linear(hidden_dim, intermediate_dim)
        self.up = Linear(hidden_dim, intermediate_dim)
        self.down = Linear(intermediate_dim, hidden_dim)
        self.gate_up_projection = Projection(self.gate, self.up)
        self.down_projection = Projection(self.down)
        self.projections = (self.gate_up_projection, self.down_projection)

    def forward(self, x_TD: torch.Tensor) -> torch.Tensor:
        gate_TF, up_TF = self.gate_up_projection(x_TD)
        return self.down_projection(swiglu(gate_TF, up_TF))[0]

    def initialize(self, std: float, generator: torch.Generator) -> None:
        """Normal(0, std) weights."""
        for linear in (self.gate, self.up, self.down):
            nn.init.normal_(linear.weight, std=std, generator=generator)
