"""The mixture-of-experts channel mixer."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import torch

from hyla.layers.layer import Layer
from hyla.layers.linear import Projection
from hyla.layers.mlp import MLP
from hyla.layers.tables.moe import parameters
from hyla.ops import moe
from hyla.ops.activations import ACTIVATIONS
from hyla.ops.moe.routing import Replay
from hyla.ops.weights import Plain


class RoutingWatch(Protocol):
    """Who looks at a mixture's choices."""

    def scored(self, logits_TE: torch.Tensor) -> torch.Tensor:
        """The router's logits; gives back the same numbers, to whose gradient it may add."""
        ...

    def chosen(self, ids_Tk: torch.Tensor) -> None:
        """The experts of each row."""
        ...


class MoE(Layer):
    """Routed experts (SwiGLU, or relu2 without a gate), dropless, plus an optional shared expert for every token.

    With a latent, the routed experts work on to_latent x and their sum goes through from_latent; the router and the
    shared expert see x (Nemotron-3-Super).
    """

    operators = ("moe",)
    optional = (
        "router_bias",
        "experts_gate",
        "shared",
        "shared_gate",
        "to_latent",
        "from_latent",
        "to_latent_projection",
        "from_latent_projection",
        "shared_gate_projection",
    )
    registered_first = ("router", "router_bias")
    router: torch.Tensor
    router_bias: torch.Tensor | None
    shared: MLP | None
    experts_in_projection: Projection
    experts_out_projection: Projection
    to_latent_projection: Projection | None
    from_latent_projection: Projection | None
    shared_gate_projection: Projection | None

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
        activation: str = "swiglu",
        latent_dim: int = 0,
    ):
        """shared_dim: intermediate size of the shared expert, 0 for none; has_shared_gate: weigh it by a sigmoid;
        latent_dim: width of the routed experts' rows, 0 for hidden_dim itself."""
        table = parameters(
            hidden_dim,
            num_experts=num_experts,
            expert_dim=expert_dim,
            has_gate=ACTIVATIONS[activation].has_gate,
            has_bias=has_bias,
            shared_dim=shared_dim,
            has_shared_gate=has_shared_gate,
            latent_dim=latent_dim,
        )
        shared = {"shared": MLP(hidden_dim, intermediate_dim=shared_dim, activation=activation)} if shared_dim else {}
        super().__init__(table, parts=shared)
        # In full precision always, but packed like the others.
        self.router_projection = Projection((self, "router"), dtype=torch.float32)
        self.projections += (self.router_projection,)
        self.activation = activation
        self.watch: RoutingWatch | None = None
        """Told of every choice while a model is trained."""
        self.replay: Replay | None = None
        """Gives the experts that rows take instead of those that the router would choose for them."""
        self.routing: dict[str, Any] = dict(
            num_experts_per_token=num_experts_per_token,
            score=score,
            normalize=normalize,
            num_groups=num_groups,
            num_groups_kept=num_groups_kept,
            scaling=scaling,
        )

    def forward(self, x_TD: torch.Tensor) -> torch.Tensor:
        weights_Tk, ids_Tk = self.route(x_TD)
        y_TD = self._routed(x_TD, weights_Tk, ids_Tk)
        if self.shared is None:
            return y_TD
        gate_T1 = None if self.shared_gate_projection is None else self.shared_gate_projection(x_TD)[0]
        return moe.add_shared(y_TD, self.shared(x_TD), gate_T1)

    def _routed(self, x_TD: torch.Tensor, weights_Tk: torch.Tensor, ids_Tk: torch.Tensor) -> torch.Tensor:
        """The routed experts' sum, through the latent where there is one."""
        if self.to_latent_projection is not None:
            x_TD = self.to_latent_projection.fused(x_TD)
        into, out_of = self.experts_in_projection.weights, self.experts_out_projection.weights
        y_TD = moe.experts(x_TD, weights_Tk, ids_Tk, into, out_of, self.activation)
        return y_TD if self.from_latent_projection is None else self.from_latent_projection.fused(y_TD)

    def route(self, x_TD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights (fp32) and ids [T, k] of the chosen experts."""
        router = Plain((self.router,)) if x_TD.dtype == torch.float64 else self.router_projection.weights
        logits_TE = moe.scores(x_TD, router)
        if self.watch is not None:
            logits_TE = self.watch.scored(logits_TE)
        bias_E = None if self.router_bias is None else self.router_bias.to(logits_TE.dtype)
        weights_Tk, ids_Tk = moe.route(logits_TE, bias_E, replay=self.replay, **self.routing)
        if self.watch is not None:
            self.watch.chosen(ids_Tk)
        return weights_Tk, ids_Tk
