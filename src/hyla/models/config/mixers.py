"""The mixers as data, one class each; `models.kinds` says what they build and what they cost."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, StrictBool, model_serializer, model_validator

from hyla.models.config.base import Count, LaterFields, MixerConfig, NormConfig, RopeConfig

OutputGate = Literal["sigmoid", "silu", "none"]
"""What a second projection of x goes through before it multiplies the normed outputs; "none": there is no gate, and
neither its parameters nor its products."""
StateDtype = Literal["float32", "bfloat16"]
"""What the state is rounded to at every multiple of 64 tokens, in training and serving alike; "float32": it is not. An
ablation of numerics: memory and speed stay those of fp32."""
ConvLen = Annotated[int, Field(ge=0, le=8)]
"""Taps of the short convolution, the row's own included; 0: there is none, SiLU stays, and nothing of it is cached."""


class SoftmaxConfig(MixerConfig, LaterFields):
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
    gate_activation: Literal["sigmoid", "silu"] = "sigmoid"
    """What the output gate goes through, for ablations; read only with `output_gate`."""
    window: Count | None = None
    """Keys that a row sees, its own included (MiMo-V2: 128); None: all earlier ones."""
    sinks: bool = False
    """One learned logit per head that joins the softmax's denominator only (MiMo-V2, gpt-oss)."""
    value_dim: Count | None = None
    """Channels of a value head; None: head_dim."""
    value_scale: float = 1.0
    """Factor on the values before they are cached (MiMo-V2: 0.707)."""
    qkv_bias: StrictBool = False
    """A bias on the projections of queries, keys and values (Qwen2)."""
    out_bias: StrictBool = False
    """A bias on the output projection (Llama's `attention_bias` has both)."""
    later: ClassVar[frozenset[str]] = frozenset({"qkv_bias", "out_bias", "gate_activation"})

    @model_validator(mode="after")
    def _gate(self):
        if self.gate_activation != "sigmoid" and not self.output_gate:
            raise ValueError(f"gate_activation = {self.gate_activation!r} needs output_gate = true")
        return self

    @model_validator(mode="after")
    def _groups(self):
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} must be a multiple of num_kv_heads {self.num_kv_heads}")
        return self


class MLAConfig(MixerConfig):
    """Multi-head latent attention, in the absorbed form everywhere but where `numerics` is "fast"."""

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
    """Epsilon of the norms of the latent (and of the query's latent)."""
    rope: RopeConfig | None = None
    scale_factor: Annotated[float, Field(gt=0)] = 1.0
    """Factor on the softmax scale (nope_dim + rope_dim)^-0.5, e.g. YaRN's squared magnitude (DeepSeek)."""
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


class GatedDeltaConfig(MixerConfig, LaterFields):
    """Gated delta rule with a scalar decay per value head (Gated DeltaNet)."""

    kind: Literal["gated_delta"] = "gated_delta"
    num_key_heads: Count
    num_value_heads: Count
    key_dim: Count
    value_dim: Count
    conv_len: ConvLen = 4
    norm_eps: float = Field(default=1e-6, gt=0)
    """Epsilon of the output norm, which is gated by silu(z)."""
    output_gate: OutputGate = "silu"
    decay: Literal["head", "none"] = "head"
    """A log decay for each value head; "none": only the delta rule forgets (DeltaNet, arXiv 2406.06484)."""
    negative_eigenvalues: StrictBool = False
    """beta = 2 sigmoid instead of sigmoid: what is erased may change its sign (arXiv 2411.12537; OLMo-Hybrid)."""
    state_dtype: StateDtype = "float32"
    later: ClassVar[frozenset[str]] = frozenset({"output_gate", "decay", "negative_eigenvalues", "state_dtype"})

    @model_validator(mode="after")
    def _groups(self):
        if self.num_value_heads % self.num_key_heads:
            raise ValueError("num_value_heads must be a multiple of num_key_heads")
        return self


class KDAConfig(MixerConfig, LaterFields):
    """Kimi Delta Attention: delta rule with a decay per key channel."""

    kind: Literal["kda"] = "kda"
    num_heads: Count
    key_dim: Count
    value_dim: Count
    conv_len: ConvLen = 4
    gate_rank: Count | None = None
    """Rank of the decay's and of the output gate's low-rank projections; None: one full projection each (Ling-3.0)."""
    norm_eps: float = Field(default=1e-5, gt=0)
    """Epsilon of the output norm, which is gated by a sigmoid."""
    decay_lower_bound: Annotated[float, Field(lt=0)] | None = None
    """Lowest log decay of a token: it is this times a sigmoid (the "safe gate" of Ling-3.0). None: no bound."""
    output_gate: OutputGate = "sigmoid"
    decay: Literal["channel", "head", "none"] = "channel"
    """A log decay for each key channel; "head": one number for all channels of a head, from one projection whatever the
    gate rank; "none": only the delta rule forgets."""
    negative_eigenvalues: StrictBool = False
    """beta = 2 sigmoid instead of sigmoid: what is erased may change its sign (arXiv 2411.12537; OLMo-Hybrid)."""
    state_dtype: StateDtype = "float32"
    later: ClassVar[frozenset[str]] = frozenset({"output_gate", "decay", "negative_eigenvalues", "state_dtype"})

    @model_validator(mode="after")
    def _bound(self):
        if self.decay == "none" and self.decay_lower_bound is not None:
            raise ValueError(f"decay_lower_bound {self.decay_lower_bound} bounds nothing with decay = 'none'")
        return self


class GLAConfig(MixerConfig, LaterFields):
    """Gated linear attention: a decay per key channel, without a delta rule."""

    kind: Literal["gla"] = "gla"
    num_heads: Count
    key_dim: Count
    """Channels of a key head; half of value_dim in the paper."""
    value_dim: Count
    gate_rank: Count = 16
    """Rank of the decay's projection."""
    decay_divisor: float = Field(default=16.0, gt=0)
    """Divides the log decays, so that a head remembers longer at the start (the paper's temperature)."""
    norm_eps: float = Field(default=1e-5, gt=0)
    """Epsilon of the output norm, which is gated by a SiLU."""
    output_gate: OutputGate = "silu"
    decay: Literal["channel", "head", "none"] = "channel"
    """A log decay for each key channel; "head": one number for all channels of a head, from one projection whatever the
    gate rank; "none": nothing is forgotten."""
    state_dtype: StateDtype = "float32"
    later: ClassVar[frozenset[str]] = frozenset({"output_gate", "decay", "state_dtype"})


class LinearAttentionConfig(MixerConfig, LaterFields):
    """Linear attention with the features elu + 1 and a normaliser."""

    kind: Literal["linear"] = "linear"
    num_heads: Count
    key_dim: Count
    value_dim: Count
    eps: float = Field(default=1e-6, gt=0)
    """Added to the normaliser, which is a sum of positive features."""
    state_dtype: StateDtype = "float32"
    later: ClassVar[frozenset[str]] = frozenset({"state_dtype"})


class LightningConfig(MixerConfig, LaterFields):
    """Lightning attention: linear attention with a constant decay per head."""

    kind: Literal["lightning"] = "lightning"
    num_heads: Annotated[int, Field(ge=1, le=65536)]
    """Bounded, because each head gets a slope before any tensor is looked at."""
    head_dim: Count
    slopes: Literal["minimax", "bailing", "bailing_engines", "bailing_clamped", "fla", "none"]
    """Which formula gives the heads' slopes by depth (`layers.slopes`); "none": nothing is forgotten."""
    layer: Annotated[int, Field(ge=0)]
    """Place among all layers of the published model, from 0: deeper layers decay less."""
    num_layers: Count
    """Layers of the published model, whatever their mixer."""
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
    """Epsilon of the output norm, which is gated by a sigmoid."""
    output_gate: OutputGate = "sigmoid"
    state_dtype: StateDtype = "float32"
    later: ClassVar[frozenset[str]] = frozenset({"output_gate", "state_dtype"})

    @model_validator(mode="after")
    def _fits(self):
        if self.layer >= self.num_layers:
            raise ValueError(f"layer {self.layer} must be below num_layers {self.num_layers}")
        if self.num_layers == 1 and self.slopes.startswith("bailing"):
            raise ValueError(f"the {self.slopes} slopes are not defined for a single layer")
        if self.num_heads * self.head_dim % self.norm_groups:
            raise ValueError(f"num_heads * head_dim must be a multiple of norm_groups {self.norm_groups}")
        if self.qk_norm and self.qk_norm.zero_centered:
            raise ValueError("qk_norm of lightning attention is not zero-centred")
        return self


class Mamba2Config(MixerConfig):
    """Mamba-2: state space dual with a scalar decay per head."""

    kind: Literal["mamba2"] = "mamba2"
    num_heads: Count
    head_dim: Count
    num_groups: Count
    """Groups of heads that share B and C; also the groups of the output norm."""
    state_dim: Count
    """Size of the state per channel (N in the paper)."""
    conv_len: ConvLen = 4
    norm_eps: float = Field(default=1e-5, gt=0)
    """Epsilon of the output norm, whose input is gated by silu(z)."""
    time_step_limit: tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(allow_inf_nan=True)]] = (
        0.0,
        float("inf"),
    )
    """Smallest and largest dt. Published models do not limit it."""
    output_gate: OutputGate = "silu"
    """Before the norm, as in Mamba-2."""
    state_dtype: StateDtype = "float32"
    later: ClassVar[frozenset[str]] = frozenset({"output_gate", "state_dtype"})

    @model_serializer(mode="wrap")
    def _written(
        self, write: SerializerFunctionWrapHandler
    ) -> dict[str, str | int | float | tuple[float, ...] | list[float]]:
        """As `LaterFields`; with the types told, an infinite time step is not written as null."""
        unused = self.unused_later()
        return {name: value for name, value in write(self).items() if name not in unused}

    @model_validator(mode="after")
    def _sizes(self):
        if self.num_heads % self.num_groups:
            raise ValueError(f"num_heads {self.num_heads} must be a multiple of num_groups {self.num_groups}")
        if not self.time_step_limit[0] <= self.time_step_limit[1]:
            raise ValueError(f"time_step_limit {self.time_step_limit} must be ascending")
        return self
