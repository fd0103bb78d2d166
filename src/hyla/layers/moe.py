"""The mixture-of-experts channel mixer."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from hyla.layers.linear import Linear, Projection
from hyla.layers.mlp import MLP
from hyla.ops import moe
from hyla.ops.exact import rows
from hyla.ops.exact.primitives import sigmoid
from hyla.ops.quant import FP8Stack, FP8Tensor


class ExpertProjection:
    """The stacked expert parameters of a `MoE`, packed for inference one expert at a time.

    Speaks like `layers.linear.Projection`. When packed, the parameters leave only their shapes behind (meta device).
    """

    def __init__(self, module: MoE):
        self._module = module
        gate = () if module.experts_gate is None else ("experts_gate",)
        self.names = (*gate, "experts_up", "experts_down")
        self.gate_up_E: list[torch.Tensor] | None = None
        """One packed [2 I, D] per expert: gate over up; with relu2 [I, D], up alone."""
        self.down_E: list[torch.Tensor] | None = None
        """One packed [D, I] per expert."""

    @property
    def is_packed(self) -> bool:
        return self.gate_up_E is not None

    @property
    def is_quantised(self) -> bool:
        """Whether some of the weights are FP8. They stay so: there is nothing to pack."""
        return bool(self._module.quantised)

    def quantised_weights(self) -> tuple[FP8Stack, FP8Stack]:
        """Gate over up, and down, of the experts, where some weights are FP8."""
        *gate_up, down = (self._module.quantised.get(name, getattr(self._module, name)) for name in self.names)
        dtype = self._module.experts_up.dtype
        return FP8Stack(tuple(gate_up), dtype), FP8Stack((down,), dtype)

    def parameters(self) -> list[torch.Tensor]:
        """The parameters that it computes with, in the order of `plain_weights`; on the meta device when packed."""
        return [getattr(self._module, name) for name in self.names]

    def pack(self, keep_plain: bool = False) -> None:
        """Replace the stacked weights by packed ones (inference only)."""
        if self.is_packed or self.is_quantised:
            return
        *gate_up, down_EDI = (parameter.detach() for parameter in self.parameters())
        self.gate_up_E = [rows.pack(torch.cat(parts)) for parts in zip(*gate_up)]
        self.down_E = [rows.pack(down_DI) for down_DI in down_EDI]
        if keep_plain:
            return
        for name, parameter in zip(self.names, self.parameters()):
            setattr(self._module, name, nn.Parameter(parameter.detach().to("meta"), requires_grad=False))

    def plain_weights(self) -> list[torch.Tensor]:
        """Gate (if there is one), up and down, stacked and plain, without unpacking."""
        if not self.is_packed:
            return [parameter.detach() for parameter in self.parameters()]
        gate_up_EFD = torch.stack([rows.unpack(weight) for weight in self.gate_up_E])
        down_EDI = torch.stack([rows.unpack(weight) for weight in self.down_E])
        return [*gate_up_EFD.chunk(len(self.names) - 1, dim=1), down_EDI]

    def unpack(self) -> None:
        """Undo `pack`: plain, trainable parameters again."""
        if not self.is_packed:
            return
        for name, weight in zip(self.names, self.plain_weights()):
            if getattr(self._module, name).is_meta:
                setattr(self._module, name, nn.Parameter(weight.clone()))
        self.gate_up_E = self.down_E = None


class MoE(nn.Module):
    """Routed experts (SwiGLU, or relu2 without a gate), dropless, plus an optional shared expert for every token.

    With a latent, the routed experts work on to_latent x and their sum goes through from_latent; the router and the
    shared expert see x (Nemotron-3-Super).
    """

    operators = ("moe",)
    quantisable = ("experts_gate", "experts_up", "experts_down")
    """Parameters that may be FP8 (`quantised`); the parameter itself then is only a shape, on the meta device."""

    def __init__(
        self,
        hidden_dim: int,
        *,
        num_experts: int,
        num_experts_per_token: int,
        expert_dim: int,
        shared_dim: int,
        has_shared_gate: bool,
        score: Literal["softmax", "sigmoid"],
        has_bias: bool,
        normalize: bool,
        num_groups: int,
        num_groups_kept: int,
        scaling: float,
        activation: Literal["swiglu", "relu2"] = "swiglu",
        latent_dim: int = 0,
    ):
        """shared_dim: intermediate size of the shared expert, 0 for none; has_shared_gate: weigh it by a sigmoid;
        latent_dim: width of the routed experts' rows, 0 for hidden_dim itself."""
        super().__init__()
        self.activation = activation
        self.routing = dict(
            num_experts_per_token=num_experts_per_token,
            score=score,
            normalize=normalize,
            num_groups=num_groups,
            num_groups_kept=num_groups_kept,
            scaling=scaling,
        )
        self.router = nn.Parameter(torch.empty(num_experts, hidden_dim, dtype=torch.float32))
        self.router_bias = nn.Parameter(torch.empty(num_experts, dtype=torch.float32)) if has_bias else None
        self.fp32_parameters = ("router", "router_bias") if has_bias else ("router",)
        row_dim = latent_dim or hidden_dim
        has_gate = activation == "swiglu"
        self.experts_gate = nn.Parameter(torch.empty(num_experts, expert_dim, row_dim)) if has_gate else None
        self.experts_up = nn.Parameter(torch.empty(num_experts, expert_dim, row_dim))
        self.experts_down = nn.Parameter(torch.empty(num_experts, row_dim, expert_dim))
        self.quantised: dict[str, FP8Tensor] = {}
        self.experts_projection = ExpertProjection(self)
        self.to_latent = Linear(hidden_dim, latent_dim) if latent_dim else None
        self.from_latent = Linear(latent_dim, hidden_dim) if latent_dim else None
        self.latent_projections = (Projection(self.to_latent), Projection(self.from_latent)) if latent_dim else ()
        self.shared = MLP(hidden_dim, intermediate_dim=shared_dim, activation=activation) if shared_dim else None
        self.shared_gate = Linear(hidden_dim, 1) if shared_dim and has_shared_gate else None
        self.shared_gate_projection = Projection(self.shared_gate) if self.shared_gate is not None else None
        # The shared MLP lists its own projections.
        self.projections = (self.experts_projection, *self.latent_projections)
        if self.shared_gate_projection is not None:
            self.projections += (self.shared_gate_projection,)

    def forward(self, x_TD: torch.Tensor) -> torch.Tensor:
        weights_Tk, ids_Tk = self.route(x_TD)
        y_TD = self._routed(x_TD, weights_Tk, ids_Tk)
        if self.shared is None:
            return y_TD
        shared_TD = self.shared(x_TD)
        if self.shared_gate_projection is None:
            return y_TD + shared_TD
        gate_T1 = sigmoid(self.shared_gate_projection(x_TD)[0].to(weights_Tk.dtype))
        return (y_TD + shared_TD * gate_T1).to(x_TD.dtype)

    def _routed(self, x_TD: torch.Tensor, weights_Tk: torch.Tensor, ids_Tk: torch.Tensor) -> torch.Tensor:
        """The routed experts' sum, through the latent where there is one."""
        if self.latent_projections:
            into, out_of = self.latent_projections
            (x_TD,) = into(x_TD)
        packed = self.experts_projection
        if packed.is_packed:
            y_TD = moe.packed_experts(x_TD, weights_Tk, ids_Tk, packed.gate_up_E, packed.down_E, self.activation)
        elif packed.is_quantised:
            y_TD = moe.packed_experts(x_TD, weights_Tk, ids_Tk, *packed.quantised_weights(), self.activation)
        else:
            stacked = (self.experts_gate, self.experts_up, self.experts_down)
            y_TD = moe.experts(x_TD, weights_Tk, ids_Tk, *stacked, self.activation)
        return out_of(y_TD)[0] if self.latent_projections else y_TD

    def route(self, x_TD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights (fp32) and ids [T, k] of the chosen experts."""
        wide = torch.float64 if x_TD.dtype == torch.float64 else torch.float32
        logits_TE = rows.linear(x_TD.to(wide), self.router.to(wide))
        bias_E = None if self.router_bias is None else self.router_bias.to(wide)
        return moe.route(logits_TE, bias_E, **self.routing)

    def initialize(self, std: float, generator: torch.Generator) -> None:
        """Normal(0, std) weights, a zero selection bias."""
        for weight in (self.router, *self.experts_projection.parameters()):
            nn.init.normal_(weight, std=std, generator=generator)
        if self.router_bias is not None:
            nn.init.zeros_(self.router_bias)
        for projection in self.latent_projections:
            nn.init.normal_(projection.linears[0].weight, std=std, generator=generator)
        if self.shared is not None:
            self.shared.initialize(std, generator)
        if self.shared_gate is not None:
            nn.init.normal_(self.shared_gate.weight, std=std, generator=generator)
