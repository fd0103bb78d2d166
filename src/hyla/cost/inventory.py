"""What a sublayer holds, and how a token uses it: its table of parameters by matrix products and vectors.

Proved equal to the modules on the meta device, for every published size (tests/cost/test_inventory.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hyla.cost.formulas import moe as moe_cost
from hyla.cost.formulas import weights as weights_cost
from hyla.layers.parameters import Table, products
from hyla.layers.tables import ends
from hyla.models.config import ModuleConfig, MoEConfig, SublayerConfig
from hyla.models.parameters import module_parameters

BYTES_PER_ELEMENT = {"fp32": 4.0, "bf16": 2.0, "fp8": 1.0, "int4": 0.5}
"""Of a stored weight, scales apart. fp8: one fp32 scale per block of 128 x 128; int4: one 16-bit scale per 32."""
WEIGHT_DTYPES = tuple(BYTES_PER_ELEMENT)
INT4_GROUP = 32
OUT = "out"
"""The product of a mixer's output projection."""


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
    """Elements of norms, convolutions and biases of projections, in the model's dtype."""
    fp32_vectors: int = 0
    """Elements of decays, biases of routers and sinks."""

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


def inventory(sublayer: SublayerConfig, hidden_dim: int) -> Inventory:
    """The parameters of one sublayer, its norm included, from its table (`models.parameters`)."""
    table = (*ends.norm(hidden_dim), *module_parameters(sublayer.module, hidden_dim))
    found = products(table)
    routed = {name: rows for name, rows in found.items() if rows[0].experts}
    loose = [row for row in table if row.product is None]
    return Inventory(
        matrices=_matrices({name: rows for name, rows in found.items() if name not in routed}),
        experts=_experts(sublayer.module, routed) if isinstance(sublayer.module, MoEConfig) else None,
        vectors=sum(row.numel for row in loose if not row.is_fp32),
        fp32_vectors=sum(row.numel for row in loose if row.is_fp32),
    )


def _matrices(found: Mapping[str, Table]) -> tuple[Matrix, ...]:
    """One matrix for each product; those of heads (MLA's) before the one that writes to the stream, as they run."""
    matrices = {name: _matrix(rows) for name, rows in found.items()}
    of_heads = {name: matrices[name] for name, rows in found.items() if len(rows[0].dims) == 3}
    ordered: list[Matrix] = []
    for name, matrix in matrices.items():
        if name == OUT:
            ordered += of_heads.values()
        if name not in of_heads:
            ordered.append(matrix)
    return tuple(ordered)


def _matrix(rows: Table) -> Matrix:
    """Parameters of one product stand over one another."""
    first = rows[0]
    return Matrix(
        in_dim=first.in_dim,
        out_dim=sum(row.out_dim for row in rows),
        count=first.count,
        is_fp32=first.is_fp32,
        copied_dim=sum(row.out_dim for row in rows if row.split_place() is None),
    )


def _experts(config: ModuleConfig, routed: Mapping[str, Table]) -> Experts:
    if not isinstance(config, MoEConfig):
        raise TypeError(f"{config.kind} has routed experts, but its config is no MoEConfig")
    rows = [row for each in routed.values() for row in each]
    return Experts(
        count=config.num_experts,
        visited=config.num_experts_per_token,
        row_dim=rows[0].in_dim,
        expert_dim=rows[0].out_dim,
        num_matrices=len(rows),
    )
