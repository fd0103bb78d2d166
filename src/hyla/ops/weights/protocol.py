"""What a product needs of a weight, however its numbers are stored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch

from hyla.errors import ConfigError

Span = tuple[int, int, int]
"""(expert, first row, last row + 1): the rows of a call that one expert multiplies."""
Spans = Sequence[Span] | torch.Tensor
"""Spans that cover the rows in order; or int64 [S, 3] on the host, of which some may be empty."""
ShardAxis = Literal["expert", "out", "in"]


class Weights(ABC):
    """A matrix [O, D], or a stack of them [E, O, D] (experts); matrices over one another count as one.

    Every kind gives the bits of `ops.exact.rows.linear` with the numbers that it stands for, and a row's bits depend
    on nothing but the row: kinds may be mixed and exchanged freely.
    """

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """[O, D] or [E, O, D]."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The dtype of the product: rows must have it."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Memory that it holds, scales included."""

    @property
    def requires_grad(self) -> bool:
        """Whether a gradient is asked of what it is made of."""
        return False

    @abstractmethod
    def dense(self, first: int = 0, last: int | None = None) -> torch.Tensor:
        """Outputs first to last (None: to the end) as a plain tensor [..., last - first, D] without gradient."""

    @abstractmethod
    def take(self, expert: int) -> Weights:
        """One expert's matrix of a stack."""

    @abstractmethod
    def shard(self, axis: ShardAxis, rank: int, size: int) -> Weights:
        """The part of one of `size` equal ranks. Each of the matrices over one another is divided on its own.

        Raises ConfigError where the axis cannot be divided like that.
        """

    @abstractmethod
    def product(self, x_TD: torch.Tensor, bias_O: torch.Tensor | None = None) -> torch.Tensor:
        """Rows x [T, D] -> x W^T + bias [T, O], in the weight's dtype; the bias joins in fp32, before the one rounding.

        Raises ConfigError where a bias is given to heads or experts, which have rows of their own.
        """

    def widened(self, x_TD: torch.Tensor) -> torch.Tensor:
        """Rows [T, D] -> x W^T [T, O] in fp32: of bf16 rows and a weight whose numbers are bf16 by bf16's own product
        (`rows.linear_widened`), of others as `product` has it."""
        return self.product(x_TD.to(self.dtype))

    def grouped(self, x_AD: torch.Tensor, spans: Spans) -> torch.Tensor:
        """A stack's products: the spans say whose rows they are; [A, O]."""
        parts = [self.take(expert).product(x_AD[first:last]) for expert, first, last in span_list(spans)]
        return torch.cat(parts) if len(parts) > 1 else parts[0]


def span_list(spans: Spans) -> list[Span]:
    """The spans that have rows."""
    found = spans.tolist() if isinstance(spans, torch.Tensor) else spans
    return [(expert, first, last) for expert, first, last in found if first < last]


def span_tensor(spans: Spans) -> torch.Tensor:
    """int64 [S, 3], as the kernels read them."""
    return spans if isinstance(spans, torch.Tensor) else torch.tensor(spans, dtype=torch.int64).view(-1, 3)


def refuse_bias(bias_O: torch.Tensor | None) -> None:
    """Raise ConfigError for a bias of matrices that do not meet the same rows."""
    if bias_O is not None:
        raise ConfigError(f"a bias {tuple(bias_O.shape)} cannot join the products of heads or experts; add it to them")


AXIS_PLACES: dict[ShardAxis, int] = {"expert": 0, "out": -2, "in": -1}


def shard_bounds(length: int, rank: int, size: int) -> tuple[int, int]:
    """First and last + 1 of one rank's equal part. Raises ConfigError where there is a rest."""
    if length % size:
        raise ConfigError(f"{length} rows or columns of a weight cannot be divided among {size} ranks")
    return rank * (length // size), (rank + 1) * (length // size)
