"""The dense channel mixer."""

from __future__ import annotations

import torch

from hyla.layers.layer import Layer
from hyla.layers.linear import Projection
from hyla.layers.tables.mlp import parameters
from hyla.ops.activations import ACTIVATIONS, activate


class MLP(Layer):
    """down(activation(gate x, up x)), gate and up as one product; or down(activation(up x)) (`ops.activations`)."""

    operators: tuple[str, ...] = ()
    optional = ("gate",)
    gate_up_projection: Projection
    down_projection: Projection

    def __init__(self, hidden_dim: int, *, intermediate_dim: int, activation: str = "swiglu", bias: bool = False):
        """activation: a name of `ops.activations.ACTIVATIONS`. bias: every projection adds one."""
        has_gate = ACTIVATIONS[activation].has_gate
        table = parameters(hidden_dim, intermediate_dim=intermediate_dim, has_gate=has_gate, has_bias=bias)
        super().__init__(table)
        self.activation = activation

    def forward(self, x_TD: torch.Tensor) -> torch.Tensor:
        return self.down_projection(activate(self.activation, self.gate_up_projection.fused(x_TD)))[0]
