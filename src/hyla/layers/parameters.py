"""Parameters as data: what each tensor of a layer is, before it exists. Needs no PyTorch.

A layer's table (`layers.tables`) has one row a parameter. The modules create their parameters from it; start values,
the optimizer's groups, what stays fp32, what may be FP8, the layout over ranks and every count follow from the rows.

The order of the rows means something: start values are drawn in it, and the matrices of one product stand over one
another in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Literal

Split = Literal["tensor", "expert"]
"""Over which ranks an axis is divided: tensor parallel or expert parallel ones."""


@dataclass(frozen=True)
class Axis:
    """A direction of a tensor that has a meaning: heads, key, value, expert, vocab, hidden, rank, latent, ..."""

    name: str
    size: int
    split: Split | None = None
    """Which ranks divide it; None: each rank has all of it."""


Dim = tuple[Axis, ...]
"""One dimension of a tensor: axes in row-major order, e.g. (heads, key)."""


def heads(size: int) -> Axis:
    """Heads of any kind, divided among tensor-parallel ranks."""
    return Axis("heads", size, "tensor")


def hidden(size: int) -> Dim:
    """The width of the residual stream."""
    return (Axis("hidden", size),)


def size_of(dim: Dim) -> int:
    """Elements along a dimension."""
    return prod(axis.size for axis in dim)


@dataclass(frozen=True)
class Segment:
    """One of the parts that stand one after another in the first dimension of a fused parameter."""

    name: str
    axes: Dim

    @property
    def size(self) -> int:
        return size_of(self.axes)


@dataclass(frozen=True)
class Start:
    """How a parameter is filled before training.

    normal: Normal(0, the model's std). uniform: in [low, high]. zeros, ones. unit_scale: a norm's scale of one (a
    stored zero where the norm is zero-centred). log_of_uniform: ln of a uniform number in [low, high].
    inverse_softplus: x such that softplus(x) is log-uniform in [low, high].
    """

    kind: Literal["normal", "uniform", "zeros", "ones", "unit_scale", "log_of_uniform", "inverse_softplus"]
    low: float = 0.0
    high: float = 0.0


NORMAL, ZEROS, ONES, UNIT_SCALE = Start("normal"), Start("zeros"), Start("ones"), Start("unit_scale")
DECAY_RATE = Start("log_of_uniform", 1.0, 16.0)
"""Start values of A_log (arXiv 2312.00752, section 3.6)."""
TIME_STEP = Start("inverse_softplus", 1e-3, 0.1)
"""Start values of dt_bias (arXiv 2312.00752, section 3.6)."""


def convolution_start(taps: int) -> Start:
    """Uniform within 1 / sqrt(taps), as a depthwise convolution starts in PyTorch."""
    return Start("uniform", -(taps**-0.5), taps**-0.5)


@dataclass(frozen=True)
class Parameter:
    """One tensor of a layer. Names are relative to the layer's module, e.g. "q.weight" or "A_log"."""

    name: str
    dims: tuple[Dim, ...]
    start: Start = NORMAL
    segments: tuple[Segment, ...] = ()
    """Parts of the first dimension, in order, which are sharded each on its own; empty: it is one whole."""
    is_fp32: bool = False
    """Kept in fp32 (float64 in a float64 model) whatever the model's dtype."""
    is_decayed: bool = False
    """Whether weight decay applies."""
    muon: Literal["matrix", "head", "expert"] | None = None
    """What Muon orthogonalises: the whole matrix, each head's or each expert's; None: AdamW updates it."""
    is_quantisable: bool = False
    """Whether it may stay in fewer bits in memory (`ops.weights`)."""
    product: str | None = None
    """The matrix product that it takes part in. Parameters of one product meet the same rows and stand over one
    another; None: it is no matrix of a product (a norm, a decay, a convolution)."""
    in_place: int = -1
    """The dimension that meets the rows of a product; the other one of the last two is the product's output."""

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(size_of(dim) for dim in self.dims)

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def in_dim(self) -> int:
        """Channels of the rows that a product reads."""
        return self.shape[self.in_place]

    @property
    def out_dim(self) -> int:
        """Channels that a product writes for each row."""
        return self.shape[-1 if self.in_place == -2 else -2]

    @property
    def count(self) -> int:
        """Matrices of a product: the heads or the experts, which have rows of their own; else 1."""
        return prod(self.shape[:-2])

    @property
    def experts(self) -> int:
        """How many experts it is stacked over; 0: it is no expert's."""
        return next((axis.size for axis in self.dims[0] if axis.split == "expert"), 0)

    def split_place(self, ranks: Split = "tensor") -> int | None:
        """The dimension that these ranks divide, along its axis (segment by segment of a fused one); None: copied."""
        for place, dim in enumerate(self.dims):
            parts = [segment.axes for segment in self.segments] if place == 0 and self.segments else [dim]
            if all(any(axis.split == ranks for axis in part) for part in parts):
                return place
        return None

    def within(self, prefix: str) -> Parameter:
        """The row under a longer name."""
        return replace(self, name=prefix + self.name)


Table = tuple[Parameter, ...]


def matrix(name: str, out: Dim, into: Dim, *, product: str) -> Parameter:
    """A projection's weight [out, in]: trained as a matrix, quantisable."""
    row = Parameter(name, (out, into), is_decayed=True, muon="matrix", is_quantisable=True)
    return replace(row, product=product)


def head_matrices(name: str, dims: tuple[Dim, Dim, Dim], *, product: str, in_place: int) -> Parameter:
    """One matrix a head, each over that head's own rows; computed in fp32, and never quantised."""
    return Parameter(name, dims, is_decayed=True, muon="head", product=product, in_place=in_place)


def vector(name: str, *axes: Axis, start: Start = UNIT_SCALE, is_fp32: bool = False) -> Parameter:
    """A norm's scale, a bias, a decay: neither decayed nor orthogonalised."""
    return Parameter(name, (axes,), start=start, is_fp32=is_fp32)


def bias(name: str, *axes: Axis) -> Parameter:
    """What is added to a product's outputs, beside the matrix "<name>.weight". It starts as the matrices do: from zero
    it would not show in a new model whether it is added."""
    return vector(f"{name}.bias", *axes, start=NORMAL)


def convolution(name: str, taps: int, *segments: Segment) -> Parameter:
    """The weight [channels, taps] of a short convolution over several inputs side by side."""
    channels = (Axis("channels", sum(segment.size for segment in segments)),)
    dims = (channels, (Axis("taps", taps),))
    return Parameter(name, dims, start=convolution_start(taps), segments=segments)


def products(table: Iterable[Parameter]) -> dict[str, Table]:
    """The matrix products of a table, each with its parameters from top to bottom."""
    found: dict[str, Table] = {}
    for row in table:
        if row.product is not None:
            found[row.product] = (*found.get(row.product, ()), row)
    return found


def within(prefix: str, table: Iterable[Parameter]) -> Table:
    """A table under a longer name, e.g. a shared expert's inside a mixture's; its products keep apart, too."""
    return tuple(
        replace(row.within(prefix), product=None if row.product is None else prefix + row.product) for row in table
    )


def by_name(table: Iterable[Parameter]) -> Mapping[str, Parameter]:
    """The rows by name."""
    return {row.name: row for row in table}
