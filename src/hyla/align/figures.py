"""What two lists of log-probabilities of the same tokens say about each other: arithmetic, in float64.

Of each token d = new - rollout in nats: rollout is what the token was drawn with, new what the other side gives it.

    ratio = exp(d)      k1 = mean(-d)      k3 = mean(exp(d) - 1 - d)

k1 and k3 estimate KL(rollout || new) from tokens that were drawn with rollout, both without bias; k1 can be negative,
k3 cannot, and varies less. Source: J. Schulman, "Approximating KL Divergence" (2020),
http://joschu.net/blog/kl-approx.html. Of tokens that nobody drew (a text) they estimate nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Figures:
    """Of some tokens; all numbers are 0, and the ratios 1, where both sides have the same bits."""

    tokens: int
    equal: int
    """Tokens with the same bits on both sides."""
    largest: float
    """The largest |d|, nats."""
    mean: float
    """The mean |d|, nats."""
    k1: float
    k3: float
    ratio_min: float
    ratio_max: float

    @property
    def is_exact(self) -> bool:
        return self.equal == self.tokens

    @property
    def share_equal(self) -> float:
        return self.equal / self.tokens if self.tokens else 1.0


@dataclass(frozen=True)
class Bucket:
    """The figures of the tokens whose position in their text is from `first` on and before `end`."""

    first: int
    end: int
    figures: Figures


def same_bits(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Bool, elementwise, of two tensors of one shape and floating dtype."""
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    return a.contiguous().view(bits) == b.contiguous().view(bits)


def figures(rollout_R: torch.Tensor, new_R: torch.Tensor) -> Figures:
    """Of fp32 log-probabilities [R] in nats."""
    if not rollout_R.shape[0]:
        return Figures(0, 0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0)
    d_R = new_R.double() - rollout_R.double()
    ratio_R = d_R.exp()
    return Figures(
        tokens=d_R.shape[0],
        equal=int(same_bits(rollout_R, new_R).sum()),
        largest=float(d_R.abs().max()),
        mean=float(d_R.abs().mean()),
        k1=float(0.0 - d_R.mean()),
        k3=float((torch.expm1(d_R) - d_R).mean()),
        ratio_min=float(ratio_R.min()),
        ratio_max=float(ratio_R.max()),
    )


def by_position(positions_R: torch.Tensor, rollout_R: torch.Tensor, new_R: torch.Tensor, first: int) -> list[Bucket]:
    """Buckets [0, first), [first, 2 first), [2 first, 4 first), ...; those without a token are left out. positions_R:
    int64, of each token in its text, from 0."""
    found, low, high = [], 0, first
    most = int(positions_R.max()) if positions_R.shape[0] else -1
    while low <= most:
        here_R = (positions_R >= low) & (positions_R < high)
        if bool(here_R.any()):
            found.append(Bucket(low, high, figures(rollout_R[here_R], new_R[here_R])))
        low, high = high, 2 * high
    return found


def parting(texts: Sequence[Sequence[int]], others: Sequence[Sequence[int]]) -> list[int | None]:
    """Of each pair of token lists, the place of the first token that differs, the end of one of them included; None:
    they are equal.

    >>> parting([[1, 2, 3], [1], [1, 2]], [[1, 5, 3], [1], [1]])
    [1, None, 1]
    """
    return [_parts_at(a, b) for a, b in zip(texts, others, strict=True)]


def _parts_at(a: Sequence[int], b: Sequence[int]) -> int | None:
    differs = (n for n, (x, y) in enumerate(zip(a, b)) if x != y)
    return next(differs, None if len(a) == len(b) else min(len(a), len(b)))
