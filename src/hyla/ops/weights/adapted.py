"""Frozen weights with low-rank terms that are trained beside them (LoRA, DoRA)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hyla.errors import ConfigError
from hyla.ops.exact import rows
from hyla.ops.exact.primitives import wide
from hyla.ops.exact.sums import sum_last
from hyla.ops.weights.plain import Plain
from hyla.ops.weights.protocol import ShardAxis, Spans, Weights


@dataclass(frozen=True, eq=False)
class LowRank:
    """scale B A, the change of one matrix [O, D] or of a stack [.., O, D]; with a magnitude, DoRA's form of it.

    LoRA: W + scale B A (arXiv 2106.09685, section 4.1). DoRA: m (W + scale B A) / ||W + scale B A||, the norm of each
    output's row taken as a constant by the gradient (arXiv 2402.09353, section 4.3).
    """

    down: torch.Tensor
    """A [r, D], of matrices over one another possibly the same tensor; [E, r, D] for experts. fp32 (float64)."""
    up: torch.Tensor
    """B [.., O, r], in A's dtype."""
    scale: float
    magnitude_O: torch.Tensor | None = None
    """m [O] (of heads [H, O]) in A's dtype, DoRA only; experts have none."""

    @property
    def requires_grad(self) -> bool:
        return any(x is not None and x.requires_grad for x in (self.down, self.up, self.magnitude_O))

    def delta(self) -> torch.Tensor:
        """scale B A [.., O, D], with its gradient."""
        scaled_up = self.up * self.scale
        if self.down.dim() == 2:
            return rows.linear(scaled_up.flatten(0, -2), self.down.t().contiguous()).unflatten(0, self.up.shape[:-1])
        parts = [rows.linear(up_OR, down_RD.t().contiguous()) for up_OR, down_RD in zip(scaled_up, self.down)]
        return torch.stack(parts)

    def merged(self, weight: torch.Tensor) -> torch.Tensor:
        """The changed weight [.., O, D] in A's dtype, with its gradient: nothing is rounded to the weight's dtype."""
        changed = weight.detach().to(self.down.dtype) + self.delta()
        return changed if self.magnitude_O is None else changed * self._stretch(changed)[..., None]

    def stretch(self, weight_OD: torch.Tensor) -> torch.Tensor:
        """m / ||W + scale B A|| [O]: what DoRA multiplies the outputs with. Differentiable to m alone."""
        with torch.no_grad():
            changed_OD = weight_OD.to(self.down.dtype) + self.delta()
        return self._stretch(changed_OD)

    def _stretch(self, changed: torch.Tensor) -> torch.Tensor:
        assert self.magnitude_O is not None
        return self.magnitude_O / row_norms(changed.detach())

    def take(self, expert: int) -> LowRank:
        """One expert's term."""
        return LowRank(self.down[expert], self.up[expert], self.scale)


def row_norms(weight: torch.Tensor) -> torch.Tensor:
    """Euclidean norms of the rows [.., O] of a weight [.., O, D], fp32 (float64 for float64)."""
    weight = wide(weight)
    return sum_last(weight * weight).sqrt().squeeze(-1)


@dataclass(frozen=True, eq=False)
class Adapted(Weights):
    """A base of any kind with low-rank terms beside some of its matrices over one another.

    y = W x + scale B (A x): the base's own product, rounded to its dtype, and the terms in fp32 (float64), rounded
    together once more. The base gets no gradient here: rows have one through every base but a packed one.
    Exactness: a row's bits depend on that row alone. They are not those of the merged weight, which is rounded first.
    """

    base: Weights
    terms: tuple[LowRank | None, ...]
    """One for each of the matrices over one another; None: this one is as it was."""
    out_dims: tuple[int, ...]
    """Outputs of each."""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.base.dtype

    @property
    def nbytes(self) -> int:
        factors = {id(x): x.nbytes for term in self.terms if term is not None for x in (term.down, term.up)}
        return self.base.nbytes + sum(factors.values())

    @property
    def requires_grad(self) -> bool:
        return any(term is not None and term.requires_grad for term in self.terms)

    def dense(self, first: int = 0, last: int | None = None) -> torch.Tensor:
        """As merged, and rounded to the base's dtype."""
        parts = self.base.dense().split(self.out_dims, dim=-2)
        with torch.no_grad():
            merged = [part if term is None else term.merged(part) for part, term in zip(parts, self.terms)]
        return torch.cat([part.to(self.dtype) for part in merged], dim=-2)[..., first:last, :]

    def take(self, expert: int) -> Adapted:
        terms = tuple(None if term is None else term.take(expert) for term in self.terms)
        return Adapted(self.base.take(expert), terms, self.out_dims)

    def shard(self, axis: ShardAxis, rank: int, size: int) -> Adapted:
        raise ConfigError(f"adapted weights {self.shape} are not divided among {size} ranks; merge the adapter first")

    def product(self, x_TD: torch.Tensor, bias_O: torch.Tensor | None = None) -> torch.Tensor:
        if all(term is None or term.magnitude_O is None for term in self.terms):
            return self._joined(self.base.product(x_TD, bias_O), self._terms(x_TD, None))
        # DoRA stretches what W x + scale B A x is before the bias.
        y_TO = self._joined(self.base.product(x_TD), self._terms(x_TD, None), self._stretches())
        return y_TO if bias_O is None else (wide(y_TO) + wide(bias_O)).to(y_TO.dtype)

    def grouped(self, x_AD: torch.Tensor, spans: Spans) -> torch.Tensor:
        return self._joined(self.base.grouped(x_AD, spans), self._terms(x_AD, spans))

    def _stretches(self) -> list[torch.Tensor | None]:
        parts = self.base.dense().split(self.out_dims, dim=-2)
        return [
            None if term is None or term.magnitude_O is None else term.stretch(part)
            for part, term in zip(parts, self.terms)
        ]

    def _terms(self, x_TD: torch.Tensor, spans: Spans | None) -> list[torch.Tensor | None]:
        """scale B (A x) of each matrix in A's dtype; an A that several share meets the rows once."""
        hidden: dict[int, torch.Tensor] = {}
        found: list[torch.Tensor | None] = []
        for term in self.terms:
            if term is None:
                found.append(None)
                continue
            if id(term.down) not in hidden:
                hidden[id(term.down)] = _product(x_TD.to(term.down.dtype), term.down, spans)
            # Scaled here, where it costs least: `add(alpha=)` is fused or not by an element's place.
            found.append(_product(hidden[id(term.down)], term.up * term.scale, spans))
        return found

    def _joined(
        self,
        y_TO: torch.Tensor,
        terms: Sequence[torch.Tensor | None],
        stretches: Sequence[torch.Tensor | None] | None = None,
    ) -> torch.Tensor:
        parts = []
        for place, (part, term) in enumerate(zip(y_TO.split(self.out_dims, dim=-1), terms)):
            if term is not None:
                part = part.to(term.dtype) + term
                stretch_O = None if stretches is None else stretches[place]
                part = (part if stretch_O is None else part * stretch_O).to(y_TO.dtype)
            parts.append(part)
        return torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]


def _product(x_TD: torch.Tensor, weight: torch.Tensor, spans: Spans | None) -> torch.Tensor:
    return rows.linear(x_TD, weight) if spans is None else Plain((weight,)).grouped(x_TD, spans)
