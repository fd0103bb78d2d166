"""A model as data: the embedding, a tuple of sublayers, the head.

Every config is frozen and forbids unknown keys. `kind` says which module a sublayer's config builds.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hyla.errors import ConfigError

Count = Annotated[int, Field(ge=1)]


class Config(BaseModel):
    """Base of all configs: frozen, unknown keys are errors, and errors are `ConfigError`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, **fields):
        try:
            super().__init__(**fields)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or type(self).__name__
            raise ConfigError(f"{type(self).__name__}: {where} = {first.get('input')!r}: {first['msg']}") from error


class NormConfig(Config):
    eps: float = Field(default=1e-6, gt=0)
    """Added to the mean square. Published models use 1e-5 or 1e-6."""
    zero_centered: bool = False
    """The stored weight is the scale minus one (Qwen3-Next, Qwen3.5)."""


class RopeConfig(Config):
    rotary_dim: Count
    """Leading channels of a head that are rotated; the rest carry no position."""
    theta: float = Field(default=10000.0, gt=0)
    interleaved: bool = False
    """Rotate neighbouring channels (2i, 2i + 1) together (GPT-J, DeepSeek) instead of i with i + rotary_dim / 2."""

    @model_validator(mode="after")
    def _even(self):
        if self.rotary_dim % 2:
            raise ValueError("rotary_dim must be even")
        return self


class SoftmaxConfig(Config):
    """Grouped-query softmax attention."""

    kind: Literal["softmax"] = "softmax"
    num_heads: Count
    num_kv_heads: Count
    head_dim: Count
    qk_norm: NormConfig | None = None
    """RMSNorm on each query and key head before the rotation (Qwen3)."""
    rope: RopeConfig | None = None
    """None: no position code (NoPE)."""
    output_gate: bool = False
    """Multiply the heads' outputs by sigmoid of a second projection (Qwen3-Next)."""

    @model_validator(mode="after")
    def _groups(self):
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} must be a multiple of num_kv_heads {self.num_kv_heads}")
        return self


class MLAConfig(Config):
    """Multi-head latent attention, computed in the absorbed form everywhere."""

    kind: Literal["mla"] = "mla"
    num_heads: Count
    q_lora_dim: Count | None = None
    """Rank of the query's down-projection; None: one full projection."""
    kv_lora_dim: Count
    nope_dim: Count
    """Channels of a query head that meet the latent."""
    rope_dim: Count
    """Channels of a query head that meet the shared key part (rotated only when `rope` is set)."""
    value_dim: Count
    norm_eps: float = Field(default=1e-6, gt=0)
    """Of the norms of the latent (and of the query's latent)."""
    rope: RopeConfig | None = None
    head_gate: bool = False
    """Multiply each head's output by sigmoid of one number, from a projection of x (Ling-3.0)."""


class GatedDeltaConfig(Config):
    """Gated delta rule with a scalar decay per value head (Gated DeltaNet)."""

    kind: Literal["gated_delta"] = "gated_delta"
    num_key_heads: Count
    num_value_heads: Count
    key_dim: Count
    value_dim: Count
    conv_len: Annotated[int, Field(ge=1, le=8)] = 4
    norm_eps: float = Field(default=1e-6, gt=0)
    """Of the output norm, which is gated by silu(z)."""

    @model_validator(mode="after")
    def _groups(self):
        if self.num_value_heads % self.num_key_heads:
            raise ValueError("num_value_heads must be a multiple of num_key_heads")
        return self


class KDAConfig(Config):
    """Kimi Delta Attention: delta rule with a decay per key channel."""

    kind: Literal["kda"] = "kda"
    num_heads: Count
    key_dim: Count
    value_dim: Count
    conv_len: Annotated[int, Field(ge=1, le=8)] = 4
    gate_rank: Count | None = None
    """Rank of the decay's and of the output gate's low-rank projections; None: one full projection each (Ling-3.0)."""
    norm_eps: float = Field(default=1e-5, gt=0)
    """Of the output norm, which is gated by a sigmoid."""
    decay_lower_bound: Annotated[float, Field(lt=0)] | None = None
    """Lowest log decay of a token: it is this times a sigmoid (the "safe gate" of Ling-3.0). None: no bound."""


class LinearAttentionConfig(Config):
    """Linear attention with the features elu + 1 and a normaliser."""

    kind: Literal["linear"] = "linear"
    num_heads: Count
    key_dim: Count
    value_dim: Count
    eps: float = Field(default=1e-6, gt=0)
    """Added to the normaliser, which is a sum of positive features."""


class MLPConfig(Config):
    """SwiGLU: down(silu(gate x) * up x)."""

    kind: Literal["mlp"] = "mlp"
    intermediate_dim: Count


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


class MoEConfig(Config):
    """Routed SwiGLU experts, dropless, with an optional shared expert."""

    kind: Literal["moe"] = "moe"
    num_experts: Count
    num_experts_per_token: Count
    expert_dim: Count
    shared_dim: Annotated[int, Field(ge=0)] = 0
    """Intermediate size of the shared expert(s) together; 0: none."""
    shared_gate: bool = False
    """Weigh the shared expert by sigmoid of a projection (Qwen3-Next)."""
    router: RouterConfig = RouterConfig()

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


MixerConfig = SoftmaxConfig | MLAConfig | GatedDeltaConfig | KDAConfig | LinearAttentionConfig
ChannelMixerConfig = MLPConfig | MoEConfig
MIXER_KINDS = frozenset({"softmax", "mla", "gated_delta", "kda", "linear"})


class ScaledResidual(Config):
    """alpha * norm(x) + beta * module(norm(x)): the residual is the normed stream, scaled (MiniMax-Text-01)."""

    alpha: float
    beta: float = 1.0


class SublayerConfig(Config):
    """One step of the residual stream: x + module(norm(x)), unless `residual` says otherwise."""

    norm: NormConfig = NormConfig()
    module: Annotated[MixerConfig | ChannelMixerConfig, Field(discriminator="kind")]
    residual: ScaledResidual | None = None


class ModelConfig(Config):
    """The whole model. `family` names the published format that it is saved in."""

    family: str
    vocab_size: Count
    hidden_dim: Count
    sublayers: tuple[SublayerConfig, ...]
    final_norm: NormConfig = NormConfig()
    tie_embeddings: bool = False
    max_len: Count
    """Longest context in tokens that the model is declared for."""
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None
    init_std: float = Field(default=0.02, gt=0)

    @property
    def mixers(self) -> tuple[MixerConfig, ...]:
        """The mixers of the stack, in order."""
        return tuple(sub.module for sub in self.sublayers if sub.module.kind in MIXER_KINDS)
