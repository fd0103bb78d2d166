"""What each kind of sublayer holds, and how a token uses it.

Proved equal to the modules on the meta device, for every published size (tests/cost/test_parameters.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from hyla.cost.formulas import moe as moe_cost
from hyla.cost.formulas import weights as weights_cost
from hyla.models.config import (
    GatedDeltaConfig,
    KDAConfig,
    LightningConfig,
    LinearAttentionConfig,
    Mamba2Config,
    MLAConfig,
    MLPConfig,
    MoEConfig,
    SoftmaxConfig,
    SparseMLAConfig,
    SublayerConfig,
)

BYTES_PER_ELEMENT = {"fp32": 4.0, "bf16": 2.0, "fp8": 1.0, "int4": 0.5}
"""Of a stored weight, scales apart. fp8: one fp32 scale per block of 128 x 128; int4: one 16-bit scale per 32."""
WEIGHT_DTYPES = tuple(BYTES_PER_ELEMENT)
INT4_GROUP = 32


def element_bytes(dtype: str) -> int:
    """Of an activation, a cached key or a vector beside weights of a dtype: fp32 beside fp32, else 16 bits."""
    return 4 if dtype == "fp32" else 2


@dataclass(frozen=True)
class Matrix:
    """`count` matrices [out_dim, in_dim] that every row meets; projections of the same rows are one matrix."""

    in_dim: int
    out_dim: int
    count: int = 1
    """Each with rows of its own, e.g. one per head."""
    is_fp32: bool = False
    """Kept and multiplied in fp32 whatever the weights' dtype."""
    copied_dim: int = 0
    """Outputs that every tensor-parallel rank computes whole: latents, routers, gates of low rank."""

    @property
    def numel(self) -> int:
        return self.count * self.in_dim * self.out_dim

    def nbytes(self, dtype: str) -> float:
        """Stored in a weight dtype. Matrices per head stay in 16 bits: ours are parts of a published one."""
        if self.is_fp32 or dtype == "fp32":
            return 4 * self.numel
        if dtype == "fp8" and self.count == 1:
            return weights_cost.weight_bytes(self.out_dim, self.in_dim)
        if dtype == "int4" and self.count == 1:
            return self.numel / 2 + 2 * self.numel / INT4_GROUP
        return 2 * self.numel


@dataclass(frozen=True)
class Experts:
    """`count` equal pairs of matrices, in and out, of which a row meets `visited`."""

    count: int
    visited: int
    row_dim: int
    expert_dim: int
    num_matrices: int
    """3: gate, up and down; 2: up and down."""

    @property
    def matrices(self) -> tuple[Matrix, Matrix]:
        """Of one expert."""
        return (
            Matrix(self.row_dim, (self.num_matrices - 1) * self.expert_dim),
            Matrix(self.expert_dim, self.row_dim),
        )

    @property
    def numel_of_one(self) -> int:
        return moe_cost.expert_bytes(self.row_dim, self.expert_dim, 1, num_matrices=self.num_matrices)

    def nbytes_of_one(self, dtype: str) -> float:
        return sum(matrix.nbytes(dtype) for matrix in self.matrices)


@dataclass(frozen=True)
class Inventory:
    """The parameters of one sublayer, its norm included, by use."""

    matrices: tuple[Matrix, ...] = ()
    experts: Experts | None = None
    vectors: int = 0
    """Elements of norms and convolutions, in the model's dtype."""
    fp32_vectors: int = 0
    """Elements of decays, biases and sinks."""

    @property
    def parameters(self) -> int:
        return self._outside_experts + (self.experts.count * self.experts.numel_of_one if self.experts else 0)

    @property
    def active(self) -> int:
        """Parameters that work on one token."""
        return self._outside_experts + (self.experts.visited * self.experts.numel_of_one if self.experts else 0)

    @property
    def _outside_experts(self) -> int:
        return sum(matrix.numel for matrix in self.matrices) + self.vectors + self.fp32_vectors

    def shared_nbytes(self, dtype: str) -> float:
        """Of all that every token meets: without the routed experts."""
        vectors = self.vectors * element_bytes(dtype) + 4 * self.fp32_vectors
        return sum(matrix.nbytes(dtype) for matrix in self.matrices) + vectors

    def nbytes(self, dtype: str) -> float:
        """All of it, stored in a weight dtype."""
        experts = self.experts.count * self.experts.nbytes_of_one(dtype) if self.experts else 0
        return self.shared_nbytes(dtype) + experts


def _softmax(config: SoftmaxConfig, hidden: int) -> Inventory:
    heads, kv_heads, key_dim = config.num_heads, config.num_kv_heads, config.head_dim
    value_dim = config.value_dim or key_dim
    width = (heads + kv_heads) * key_dim + (kv_heads + heads * config.output_gate) * value_dim
    normed = 0 if config.qk_norm is None else 2 if config.qk_norm_scope == "head" else heads + kv_heads
    return Inventory(
        matrices=(Matrix(hidden, width), Matrix(heads * value_dim, hidden)),
        vectors=normed * key_dim,
        fp32_vectors=heads * config.sinks,
    )


def _mla(config: MLAConfig, hidden: int) -> Inventory:
    heads, latent = config.num_heads, config.kv_lora_dim
    queries = heads * (config.nope_dim + config.rope_dim)
    beside = latent + config.rope_dim + heads * config.head_gate
    copied = latent + config.rope_dim + (config.q_lora_dim or 0)
    if config.q_lora_dim is None:
        into = (Matrix(hidden, queries + beside, copied_dim=copied),)
    else:
        into = (Matrix(hidden, config.q_lora_dim + beside, copied_dim=copied), Matrix(config.q_lora_dim, queries))
    up = (Matrix(config.nope_dim, latent, heads), Matrix(latent, config.value_dim, heads))
    return Inventory(
        matrices=(*into, *up, Matrix(heads * config.value_dim, hidden)),
        vectors=latent + (config.q_lora_dim or 0),
    )


def _sparse_mla(config: SparseMLAConfig, hidden: int) -> Inventory:
    attention = _mla(config, hidden)
    heads, dim = config.num_index_heads, config.index_dim
    key = Matrix(hidden, dim, copied_dim=dim)
    indexer = (Matrix(config.q_lora_dim, heads * dim), key, Matrix(hidden, heads, is_fp32=True))
    return Inventory(
        matrices=(*attention.matrices, *indexer),
        vectors=attention.vectors,
        fp32_vectors=2 * dim,
    )


def _gated_delta(config: GatedDeltaConfig, hidden: int) -> Inventory:
    heads = config.num_value_heads
    keys, values = config.num_key_heads * config.key_dim, heads * config.value_dim
    return Inventory(
        matrices=(Matrix(hidden, 2 * keys + 2 * values + 2 * heads), Matrix(values, hidden)),
        vectors=(2 * keys + values) * config.conv_len + config.value_dim,
        fp32_vectors=2 * heads,
    )


def _kda(config: KDAConfig, hidden: int) -> Inventory:
    keys, values = config.num_heads * config.key_dim, config.num_heads * config.value_dim
    rank = config.gate_rank
    gates = keys + values if rank is None else 2 * rank
    up = () if rank is None else (Matrix(rank, keys), Matrix(rank, values))
    into = Matrix(hidden, 2 * keys + values + gates + config.num_heads, copied_dim=2 * (rank or 0))
    return Inventory(
        matrices=(into, *up, Matrix(values, hidden)),
        vectors=(2 * keys + values) * config.conv_len + config.value_dim,
        fp32_vectors=config.num_heads + keys,
    )


def _lightning(config: LightningConfig, hidden: int) -> Inventory:
    width = config.num_heads * config.head_dim
    return Inventory(
        matrices=(Matrix(hidden, 4 * width), Matrix(width, hidden)),
        vectors=width + (2 * config.head_dim if config.qk_norm else 0),
    )


def _mamba2(config: Mamba2Config, hidden: int) -> Inventory:
    values, keys = config.num_heads * config.head_dim, config.num_groups * config.state_dim
    return Inventory(
        matrices=(Matrix(hidden, 2 * values + 2 * keys + config.num_heads), Matrix(values, hidden)),
        vectors=(values + 2 * keys) * (config.conv_len + 1) + values,
        fp32_vectors=3 * config.num_heads,
    )


def _linear(config: LinearAttentionConfig, hidden: int) -> Inventory:
    width = config.num_heads * (2 * config.key_dim + config.value_dim)
    return Inventory(matrices=(Matrix(hidden, width), Matrix(config.num_heads * config.value_dim, hidden)))


def _mlp_matrices(hidden: int, width: int, activation: str) -> tuple[Matrix, ...]:
    return (Matrix(hidden, (2 if activation == "swiglu" else 1) * width), Matrix(width, hidden))


def _mlp(config: MLPConfig, hidden: int) -> Inventory:
    return Inventory(matrices=_mlp_matrices(hidden, config.intermediate_dim, config.activation))


def _moe(config: MoEConfig, hidden: int) -> Inventory:
    matrices = (Matrix(hidden, config.num_experts, is_fp32=True, copied_dim=config.num_experts),)
    if config.latent_dim:
        matrices += (Matrix(hidden, config.latent_dim, copied_dim=config.latent_dim), Matrix(config.latent_dim, hidden))
    if config.shared_dim:
        matrices += _mlp_matrices(hidden, config.shared_dim, config.activation)
        matrices += (Matrix(hidden, 1, copied_dim=1),) * config.shared_gate
    experts = Experts(
        count=config.num_experts,
        visited=config.num_experts_per_token,
        row_dim=config.latent_dim or hidden,
        expert_dim=config.expert_dim,
        num_matrices=3 if config.activation == "swiglu" else 2,
    )
    bias = config.num_experts if config.router.has_bias else 0
    return Inventory(matrices=matrices, experts=experts, fp32_vectors=bias)


INVENTORIES = {
    "softmax": _softmax,
    "mla": _mla,
    "sparse_mla": _sparse_mla,
    "gated_delta": _gated_delta,
    "kda": _kda,
    "lightning": _lightning,
    "mamba2": _mamba2,
    "linear": _linear,
    "mlp": _mlp,
    "moe": _moe,
}
"""By kind of sublayer, without its norm."""


def inventory(sublayer: SublayerConfig, hidden_dim: int) -> Inventory:
    """The parameters of one sublayer, its norm included."""
    inside = INVENTORIES[sublayer.module.kind](sublayer.module, hidden_dim)
    return Inventory(inside.matrices, inside.experts, inside.vectors + hidden_dim, inside.fp32_vectors)
