"""The channel mixers as data: dense and mixture of experts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, StrictBool, model_validator

from hyla.models.config.base import ChannelMixerConfig, Config, Count, LaterFields
from hyla.ops.activations import ACTIVATIONS

if TYPE_CHECKING:
    Activation = str
else:
    Activation = Literal[tuple(ACTIVATIONS)]


class MLPConfig(ChannelMixerConfig, LaterFields):
    """Dense channel mixer: down(silu(gate x) * up x), unless `activation` (`ops.activations`) says otherwise."""

    kind: Literal["mlp"] = "mlp"
    intermediate_dim: Count
    activation: Activation = "swiglu"
    bias: StrictBool = False
    """A bias on each projection (Llama's `mlp_bias`)."""
    later: ClassVar[frozenset[str]] = frozenset({"bias"})


class RouterConfig(Config):
    score: Literal["softmax", "sigmoid"] = "softmax"
    has_bias: bool = False
    """A per-expert bias that takes part in the selection, never in the weights (DeepSeek's router)."""
    normalize: bool = True
    """Divide the selected scores by their sum."""
    num_groups: Count = 1
    num_groups_kept: Count = 1
    scaling: float = 1.0
    """Factor on the final weights."""


class MoEConfig(ChannelMixerConfig):
    """Routed experts, dropless, with an optional shared expert."""

    kind: Literal["moe"] = "moe"
    num_experts: Count
    num_experts_per_token: Count
    expert_dim: Count
    shared_dim: Annotated[int, Field(ge=0)] = 0
    """Intermediate size of the shared expert(s) together; 0: none."""
    shared_gate: bool = False
    """Weigh the shared expert by sigmoid of a projection (Qwen3-Next)."""
    router: RouterConfig = RouterConfig()
    activation: Activation = "swiglu"
    """Activation of the routed and of the shared experts."""
    latent_dim: Annotated[int, Field(ge=0)] = 0
    """Width of the rows that the routed experts see, a projection of x; 0: x itself (Nemotron-3-Super: 1024)."""

    @model_validator(mode="after")
    def _sizes(self):
        if self.num_experts_per_token > self.num_experts:
            raise ValueError("num_experts_per_token must not exceed num_experts")
        if self.num_experts % self.router.num_groups:
            raise ValueError("num_experts must be a multiple of router.num_groups")
        if self.router.num_groups_kept > self.router.num_groups:
            raise ValueError("router.num_groups_kept must not exceed router.num_groups")
        if self.num_experts_per_token > self.num_experts // self.router.num_groups * self.router.num_groups_kept:
            raise ValueError("num_experts_per_token must not exceed the experts of the groups that are kept")
        return self
