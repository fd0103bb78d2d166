"""A model as data: the embedding, a tuple of sublayers, the head.

Every config is frozen and forbids unknown keys. `kind` says which module a sublayer's config builds.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hyla.errors import ConfigError

Count = Annotated[int, Field(ge=1, lt=2**31)]


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


class LinearScalingConfig(Config):
    """Positions divided by `factor` (arXiv 2306.15595)."""

    kind: Literal["linear"] = "linear"
    factor: Annotated[float, Field(ge=1)]
    """Wanted length over the original one."""


class Llama3ScalingConfig(Config):
    """Long waves divided by `factor`, short ones kept, a blend between (Llama 3.1)."""

    kind: Literal["llama3"] = "llama3"
    factor: Annotated[float, Field(ge=1)]
    """Divides the frequencies of waves longer than original_max_len / low_freq_factor."""
    low_freq_factor: Annotated[float, Field(gt=0)]
    high_freq_factor: Annotated[float, Field(gt=0)]
    """Waves shorter than original_max_len / high_freq_factor are kept."""
    original_max_len: Count
    """Tokens of the context that the model was first trained with."""

    @model_validator(mode="after")
    def _order(self):
        if self.low_freq_factor >= self.high_freq_factor:
            raise ValueError("low_freq_factor must be less than high_freq_factor")
        return self


class YarnScalingConfig(Config):
    """Channels that turn often are kept, those that turn seldom interpolated (YaRN, arXiv 2309.00071)."""

    kind: Literal["yarn"] = "yarn"
    factor: Annotated[float, Field(ge=1)]
    """Wanted length over the original one."""
    original_max_len: Count
    """Tokens of the context that the model was first trained with."""
    beta_fast: Annotated[float, Field(gt=0)] = 32.0
    """Channels that turn more often than this within the original length keep their frequency."""
    beta_slow: Annotated[float, Field(gt=0)] = 1.0
    """Channels that turn less often are wholly interpolated."""
    truncate: bool = True
    """Round the ends of the ramp between the two to whole channels, outwards (gpt-oss does not)."""
    attention_factor: Annotated[float, Field(gt=0)] | None = None
    """On cosines and sines; None: from `factor`, `mscale` and `mscale_all_dim`."""
    mscale: Annotated[float, Field(ge=0)] | None = None
    """Weight of ln(factor) in the attention factor's numerator; read only where mscale_all_dim is set too."""
    mscale_all_dim: Annotated[float, Field(ge=0)] | None = None
    """The same for its denominator; DeepSeek moves this part into the softmax scale (`MLAConfig.scale_factor`)."""


ScalingConfig = Annotated[LinearScalingConfig | Llama3ScalingConfig | YarnScalingConfig, Field(discriminator="kind")]


class RopeConfig(Config):
    rotary_dim: Count
    """Leading channels of a head that are rotated; the rest carry no position."""
    theta: float = Field(default=10000.0, gt=0)
    interleaved: bool = False
    """Rotate neighbouring channels (2i, 2i + 1) together (GPT-J, DeepSeek) instead of i with i + rotary_dim / 2."""
    scaling: ScalingConfig | None = None
    """How the frequencies are changed for contexts longer than the original training's."""

    @model_validator(mode="after")
    def _even(self):
        if self.rotary_dim % 2:
            raise ValueError("rotary_dim must be even")
        if isinstance(self.scaling, YarnScalingConfig) and self.theta <= 1:
            raise ValueError(f"theta {self.theta} must be above 1 for yarn, which divides by its logarithm")
        return self


class SoftmaxConfig(Config):
    """Grouped-query softmax attention."""

    kind: Literal["softmax"] = "softmax"
    num_heads: Count
    num_kv_heads: Count
    head_dim: Count
    qk_norm: NormConfig | None = None
    """RMSNorm on the queries and keys before the rotation (Qwen3)."""
    qk_norm_scope: Literal["head", "projection"] = "head"
    """Norm each head alone (Qwen3), or all heads of a projection as one vector (MiniMax-M2)."""
    rope: RopeConfig | None = None
    """None: no position code (NoPE)."""
    output_gate: bool = False
    """Multiply the heads' outputs by sigmoid of a second projection (Qwen3-Next)."""
    window: Count | None = None
    """Keys that a row sees, its own included (MiMo-V2: 128); None: all earlier ones."""
    sinks: bool = False
    """One learned logit per head that joins the softmax's denominator only (MiMo-V2, gpt-oss)."""
    value_dim: Count | None = None
    """Channels of a value head; None: head_dim."""
    value_scale: float = 1.0
    """Factor on the values before they are cached (MiMo-V2: 0.707)."""

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
    scale_factor: Annotated[float, Field(gt=0)] = 1.0
    """On the softmax scale (nope_dim + rope_dim)^-0.5, e.g. YaRN's squared magnitude (DeepSeek)."""
    head_gate: bool = False
    """Multiply each head's output by sigmoid of one number, from a projection of x (Ling-3.0)."""


class SparseMLAConfig(MLAConfig):
    """MLA over the keys that a lightning indexer selects (DeepSeek Sparse Attention)."""

    kind: Literal["sparse_mla"] = "sparse_mla"
    num_index_heads: Count
    index_dim: Count
    """Channels of the indexer's queries and of its one key; the first rope.rotary_dim are rotated, by halves."""
    num_selected: Count
    """Keys that a token attends to; all of them while the context is not longer."""

    @model_validator(mode="after")
    def _indexer(self):
        if self.q_lora_dim is None:
            raise ValueError("q_lora_dim must be set: the indexer reads the query's latent")
        if self.rope is not None and self.rope.rotary_dim > self.index_dim:
            raise ValueError(f"index_dim {self.index_dim} must hold rope.rotary_dim {self.rope.rotary_dim}")
        return self


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


class LightningConfig(Config):
    """Lightning attention: linear attention with a constant decay per head."""

    kind: Literal["lightning"] = "lightning"
    num_heads: Count
    head_dim: Count
    slopes: Literal["minimax", "bailing", "bailing_engines", "bailing_clamped"]
    """Which formula gives the heads' slopes by depth (`layers.lightning.DEPTH_FACTORS`)."""
    layer: Annotated[int, Field(ge=0)]
    """Place among all layers of the published model, from 0: deeper layers decay less."""
    num_layers: Count
    """All layers of the published model, whatever their mixer."""
    silu: bool = False
    """SiLU on queries, keys and values (MiniMax)."""
    qk_norm: NormConfig | None = None
    """RMSNorm on each query and key head before the rotation (Bailing)."""
    rope: RopeConfig | None = None
    scaled: bool = True
    """Multiply queries by head_dim^-0.5 (Bailing); MiniMax does not."""
    norm_groups: Count = 1
    """Equal parts of the output, over all heads, that are normed apart."""
    norm_eps: float = Field(default=1e-6, gt=0)
    """Of the output norm, which is gated by a sigmoid."""

    @model_validator(mode="after")
    def _fits(self):
        if self.layer >= self.num_layers:
            raise ValueError(f"layer {self.layer} must be below num_layers {self.num_layers}")
        if self.num_layers == 1 and self.slopes != "minimax":
            raise ValueError(f"the {self.slopes} slopes are not defined for a single layer")
        if self.num_heads * self.head_dim % self.norm_groups:
            raise ValueError(f"num_heads * head_dim must be a multiple of norm_groups {self.norm_groups}")
        if self.qk_norm and self.qk_norm.zero_centered:
            raise ValueError("qk_norm of lightning attention is not zero-centred")
        return self


class Mamba2Config(Config):
    """Mamba-2: state space dual with a scalar decay per head."""

    kind: Literal["mamba2"] = "mamba2"
    num_heads: Count
    head_dim: Count
    num_groups: Count
    """Groups of heads that share B and C; also the groups of the output norm."""
    state_dim: Count
    """Size of the state per channel (N in the paper)."""
    conv_len: Annotated[int, Field(ge=1, le=8)] = 4
    norm_eps: float = Field(default=1e-5, gt=0)
    """Of the output norm, whose input is gated by silu(z)."""
    time_step_limit: tuple[Annotated[float, Field(ge=0)], float] = (0.0, float("inf"))
    """Smallest and largest dt. Published models do not limit it."""

    @model_validator(mode="after")
    def _sizes(self):
        if self.num_heads % self.num_groups:
            raise ValueError(f"num_heads {self.num_heads} must be a multiple of num_groups {self.num_groups}")
        if not self.time_step_limit[0] <= self.time_step_limit[1]:
            raise ValueError(f"time_step_limit {self.time_step_limit} must be ascending")
        return self


Activation = Literal["swiglu", "relu2"]
"""swiglu: down(silu(gate x) * up x). relu2: down(relu(up x)^2), without gate weights (Nemotron)."""


class MLPConfig(Config):
    """Dense channel mixer: down(silu(gate x) * up x), unless `activation` says otherwise."""

    kind: Literal["mlp"] = "mlp"
    intermediate_dim: Count
    activation: Activation = "swiglu"


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
    """Of the routed and of the shared expert."""
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


MixerConfig = (
    SoftmaxConfig
    | MLAConfig
    | SparseMLAConfig
    | GatedDeltaConfig
    | KDAConfig
    | LightningConfig
    | Mamba2Config
    | LinearAttentionConfig
)
ChannelMixerConfig = MLPConfig | MoEConfig
MIXER_KINDS = frozenset({"softmax", "mla", "sparse_mla", "gated_delta", "kda", "lightning", "mamba2", "linear"})


class ScaledResidual(Config):
    """alpha * norm(x) + beta * module(norm(x)): the residual is the normed stream, scaled (MiniMax-Text-01)."""

    alpha: float
    beta: float = 1.0


class SublayerConfig(Config):
    """One step of the residual stream: x + module(norm(x)), unless `residual` says otherwise."""

    norm: NormConfig = NormConfig()
    module: Annotated[MixerConfig | ChannelMixerConfig, Field(discriminator="kind")]
    residual: ScaledResidual | None = None


class MTPConfig(Config):
    """One multi-token prediction module: sublayers(W [norm(embedding), norm(hidden)]), then a norm."""

    norm: NormConfig = NormConfig()
    """Of the next token's embedding and of the hidden state, each with its own weight."""
    sublayers: tuple[SublayerConfig, ...]
    final_norm: NormConfig = NormConfig()
    num_steps: Count = 1
    """How many tokens ahead the same weights were trained to guess, step after step (Nemotron-3: shared weights)."""
    has_own_embedding: bool = False
    """The checkpoint stores an embedding for the module (DeepSeek); otherwise it is the trunk's."""
    has_own_head: bool = False
    """The checkpoint stores a head for the module (DeepSeek); otherwise it is the trunk's."""


class ModelConfig(Config):
    """The whole model. `family` names the published format that it is saved in."""

    family: str
    vocab_size: Count
    hidden_dim: Count
    sublayers: tuple[SublayerConfig, ...]
    final_norm: NormConfig = NormConfig()
    tie_embeddings: bool = False
    mtp: tuple[MTPConfig, ...] = ()
    """Multi-token prediction modules in the order in which they are applied."""
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
