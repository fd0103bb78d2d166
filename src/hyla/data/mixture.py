"""Several stores in fixed shares."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import torch

from hyla.data.batch_sizes import BatchSizes
from hyla.data.packing import SOURCE_SEED_STRIDE, PackedRows, Stream, TokenStore
from hyla.errors import ConfigError


class Mixture:
    """Steps of exactly `sizes.of(step)` rows, of each store its share.

    A store's rows come from its own stream, which begins again when it ends (`Stream`). After s steps a store has given
    its share of their rows, to within a row a store; no state is kept: step s is a function of (seed, s).
    """

    def __init__(
        self,
        stores: Sequence[TokenStore],
        weights: Sequence[float],
        sizes: BatchSizes,
        *,
        max_document_tokens: int,
        seed: int,
    ):
        """weights: shares of the rows, > 0, of any sum.

        Raises ConfigError for weights that are no shares, or a store without a row.
        """
        if len(stores) != len(weights) or not stores:
            raise ConfigError(f"a mixture of {len(stores)} stores has {len(weights)} weights; give each store one")
        wrong = next((weight for weight in weights if not 0 < weight < float("inf")), None)
        if wrong is not None:
            raise ConfigError(f"the weight {wrong} of a mixture is no share; weights are greater than 0")
        self.stores, self.sizes = tuple(stores), sizes
        self._streams = [
            Stream(store, max_document_tokens=max_document_tokens, seed=seed + SOURCE_SEED_STRIDE * number)
            for number, store in enumerate(stores)
        ]
        empty = next((number for number, stream in enumerate(self._streams) if not stream.num_rows), None)
        if empty is not None:
            raise ConfigError(f"store {empty} of the mixture holds no row; leave it out")
        exact = [Fraction(weight) for weight in weights]
        self._of_rest = [exact[number] / sum(exact[number:], Fraction()) for number in range(len(exact))]

    def _given(self, step: int) -> list[int]:
        """Rows of each store before this step. Each takes its share, rounded down, of what those before it left: so
        they add up, and no store's count ever falls."""
        left, counts = self.sizes.before(step), []
        for share in self._of_rest:
            counts.append(int(share * left))
            left -= counts[-1]
        return counts

    def step(self, step: int) -> PackedRows:
        """The rows of optimizer step `step` (0-based), store by store."""
        parts = []
        for store, stream, first, last in zip(self.stores, self._streams, self._given(step), self._given(step + 1)):
            if last > first:
                parts.append(store.rows(stream.pieces(first, last)))
        return joined(parts)


def joined(parts: Sequence[PackedRows]) -> PackedRows:
    """Parts one after the other. Where one part says what is learnt, the others' rows are all learnt."""
    if len(parts) == 1:
        return parts[0]
    learnt_T = None
    if any(part.is_learnt_T is not None for part in parts):
        known = [
            torch.ones_like(part.tokens_T, dtype=torch.bool) if part.is_learnt_T is None else part.is_learnt_T
            for part in parts
        ]
        learnt_T = torch.cat(known)
    return PackedRows(
        torch.cat([part.tokens_T for part in parts]),
        torch.cat([part.targets_T for part in parts]),
        tuple(length for part in parts for length in part.lengths),
        learnt_T,
    )
