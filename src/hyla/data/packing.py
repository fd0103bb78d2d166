"""Documents as packed steps: which tokens step s reads is a pure function of (seed, s)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import torch

from hyla.data.batch_sizes import BatchSizes
from hyla.data.epochs import permutation
from hyla.errors import ConfigError
from hyla.ops.batch import Batch

SOURCE_SEED_STRIDE = 7_919
"""Keeps the shuffles of the sources of a mixture apart."""


class TokenStore:
    """Documents as one flat tensor.

    tokens: an integer dtype [sum of lengths], each document with its end-of-text tokens at both ends.
    ends:   int64 [documents], flat position after each document's last token.
    learnt: uint8 like tokens, whether the model is to write a token (conversations); None: all of them.
    """

    def __init__(self, tokens: torch.Tensor, ends: torch.Tensor, learnt: torch.Tensor | None = None):
        self.tokens, self.ends, self.learnt = tokens, ends, learnt

    @classmethod
    def from_lists(cls, documents: Sequence[Sequence[int]]) -> TokenStore:
        flat = [token for document in documents for token in document]
        lengths = torch.tensor([len(document) for document in documents], dtype=torch.int64)
        return cls(torch.tensor(flat, dtype=torch.int32), lengths.cumsum(0))

    def pieces(self, max_tokens: int) -> list[tuple[int, int]]:
        """(first row, rows) of every piece; for stores whose pieces a list can hold."""
        firsts, lengths = self.cut(max_tokens)
        return list(zip(firsts.tolist(), lengths.tolist()))

    def cut(self, max_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        """First row and rows of every piece, int64 [pieces] each. Row i predicts token i + 1 of the same document, so a
        document of n tokens has n - 1 rows; pieces are at most max_tokens rows."""
        starts = torch.cat([self.ends.new_zeros(1), self.ends[:-1]]) if len(self.ends) else self.ends
        rows = (self.ends - starts - 1).clamp_min(0)
        counts = (rows + max_tokens - 1) // max_tokens
        document = torch.repeat_interleave(counts)
        number = torch.arange(len(document)) - (counts.cumsum(0) - counts)[document]
        firsts = starts[document] + number * max_tokens
        return firsts, (rows[document] - number * max_tokens).clamp_max(max_tokens)

    def rows(self, pieces: Sequence[tuple[int, int]]) -> PackedRows:
        """The pieces' inputs and targets, one after the other."""
        inputs = torch.cat([self.tokens[first : first + length] for first, length in pieces])
        targets = torch.cat([self.tokens[first + 1 : first + length + 1] for first, length in pieces])
        learnt = None
        if self.learnt is not None:
            learnt = torch.cat([self.learnt[first + 1 : first + length + 1] for first, length in pieces]).bool()
        return PackedRows(inputs.long(), targets.long(), tuple(length for _, length in pieces), learnt)


@dataclass(frozen=True)
class PackedRows:
    """Rows of one forward: tokens and next tokens int64 [T], and the length of each piece. Pieces share no state."""

    tokens_T: torch.Tensor
    targets_T: torch.Tensor
    lengths: tuple[int, ...]
    is_learnt_T: torch.Tensor | None = None
    """bool: whose targets the loss is made of; None: of all."""
    starts: tuple[int, ...] | None = field(default=None, kw_only=True)
    """Positions of the pieces' first rows in their documents; None: 0."""
    goes_on: tuple[int, ...] | None = field(default=None, kw_only=True)
    """By piece, the place of the one before it in the pass before; None: every piece begins."""

    @property
    def batch(self) -> Batch:
        if self.starts is None:
            return Batch.packed(self.lengths, device=self.tokens_T.device)
        return Batch(self.lengths, self.starts, device=self.tokens_T.device)

    def to(self, device: torch.device) -> PackedRows:
        """The same rows on a device: one copy, and one of what is learnt."""
        tokens_T, targets_T = torch.stack([self.tokens_T, self.targets_T]).to(device)
        learnt_T = None if self.is_learnt_T is None else self.is_learnt_T.to(device)
        return replace(self, tokens_T=tokens_T, targets_T=targets_T, is_learnt_T=learnt_T)

    @property
    def num_learnt(self) -> int:
        """Rows that the loss is made of."""
        return self.tokens_T.shape[0] if self.is_learnt_T is None else int(self.is_learnt_T.sum())

    @property
    def denominator(self) -> int:
        """What a step's sum of losses is divided by."""
        return self.num_learnt

    def micro_batches(self, most_rows: int | None) -> list[PackedRows]:
        """The same pieces in groups of at most so many rows, in order; a longer piece is a group of its own.

        None: one group. A function of the lengths alone, so the groups are the same wherever they are computed.
        """
        if most_rows is None:
            return [self]
        groups = _groups(self.lengths, most_rows)
        found, first = [], 0
        for group in groups:
            here = slice(first, first + sum(group))
            learnt_T = None if self.is_learnt_T is None else self.is_learnt_T[here]
            found.append(PackedRows(self.tokens_T[here], self.targets_T[here], tuple(group), learnt_T))
            first = here.stop
        return found

    def pieces_in_turn(self, piece_rows: int, most_rows: int | None) -> list[PackedRows]:
        """Documents in pieces of at most `piece_rows`, in passes of at most `most_rows`: a pass has one piece of each
        of some documents, and the pass after it their next ones. A function of the lengths alone.

        piece_rows: a multiple of 64 where states are handed on. most_rows: None for all documents at once.
        """
        firsts = [min(length, piece_rows) for length in self.lengths]
        groups = [firsts] if most_rows is None else _groups(firsts, most_rows)
        found, number, offset = [], 0, 0
        for group in groups:
            here, places = self.lengths[number : number + len(group)], []
            for length in here:
                places.append((offset, length))
                offset += length
            number += len(group)
            found += self._in_turn(places, piece_rows)
        return found

    def _in_turn(self, places: list[tuple[int, int]], piece_rows: int) -> list[PackedRows]:
        """The passes of some documents, each as (first row, rows)."""
        found, before = [], None
        for start in range(0, max(length for _, length in places), piece_rows):
            members = [document for document, (_, length) in enumerate(places) if length > start]
            lengths = tuple(min(places[document][1] - start, piece_rows) for document in members)
            rows = [slice(places[d][0] + start, places[d][0] + start + n) for d, n in zip(members, lengths)]
            tokens_T, targets_T, learnt_T = (
                None if x is None else torch.cat([x[each] for each in rows])
                for x in (self.tokens_T, self.targets_T, self.is_learnt_T)
            )
            assert tokens_T is not None and targets_T is not None
            starts = (start,) * len(members)
            goes_on = None if before is None else tuple(before.index(document) for document in members)
            found.append(PackedRows(tokens_T, targets_T, lengths, learnt_T, starts=starts, goes_on=goes_on))
            before = members
        return found


def _groups(lengths: Sequence[int], most_rows: int) -> list[list[int]]:
    """Lengths in order, in groups of at most so many rows; a longer one is a group of its own."""
    groups: list[list[int]] = []
    for length in lengths:
        if groups and sum(groups[-1]) + length <= most_rows:
            groups[-1].append(length)
        else:
            groups.append([length])
    return groups


class Stream:
    """The endless stream of a store's rows: every epoch is one permutation of its pieces.

    epoch_rows: how many rows of an epoch are read before the next one begins.
    """

    def __init__(self, store: TokenStore, *, max_document_tokens: int, seed: int, epoch_rows: int | None = None):
        self.store, self.seed = store, seed
        self._firsts, self._lengths = store.cut(max_document_tokens)
        self.num_rows = int(self._lengths.sum())
        self.epoch_rows = self.num_rows if epoch_rows is None else epoch_rows
        self._epoch = lru_cache(maxsize=2)(self._shuffled)

    def _shuffled(self, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Pieces in the epoch's order and the stream position after each."""
        order = permutation(len(self._firsts), self.seed, epoch)
        return order, self._lengths[order].cumsum(0)

    def pieces(self, first: int, last: int) -> list[tuple[int, int]]:
        """(first row of the store, rows) of what stands at [first, last) of the stream, cut at its two ends."""
        taken = []
        while first < last:
            epoch, place = divmod(first, self.epoch_rows)
            stop = min(place + last - first, self.epoch_rows)
            first += stop - place
            taken += self._of_epoch(epoch, place, stop)
        return taken

    def _of_epoch(self, epoch: int, first: int, last: int) -> list[tuple[int, int]]:
        order, stream_ends = self._epoch(epoch)
        number = int(torch.searchsorted(stream_ends, first, right=True))
        taken = []
        while first < last:
            piece, stream_end = int(order[number]), int(stream_ends[number])
            skipped = first - (stream_end - int(self._lengths[piece]))
            rows = min(stream_end, last) - first
            taken.append((int(self._firsts[piece]) + skipped, rows))
            first += rows
            number += 1
        return taken


class Packer:
    """Cuts the shuffled stream of pieces into steps of exactly `sizes.of(step)` rows.

    Every epoch is one permutation of the pieces; a step takes the next rows of that stream, so a piece may be cut once
    more at a step's edge (its second part then starts without memory). The rows left at the end of an epoch, fewer than
    one step of full size, are not read in that epoch.
    """

    def __init__(self, store: TokenStore, sizes: BatchSizes, *, max_document_tokens: int, seed: int):
        self.store, self.sizes = store, sizes
        batch_tokens = sizes.tokens
        self._stream = Stream(store, max_document_tokens=max_document_tokens, seed=seed)
        self.num_rows = self._stream.num_rows
        if self.num_rows < batch_tokens:
            raise ConfigError(
                f"the training documents hold {self.num_rows} tokens, less than one step of batch_tokens = "
                f"{batch_tokens}; add text or lower batch_tokens"
            )
        self._stream.epoch_rows = self.steps_per_epoch * batch_tokens

    @property
    def steps_per_epoch(self) -> int:
        """Of full size."""
        return self.num_rows // self.sizes.tokens

    def step(self, step: int) -> PackedRows:
        """The rows of optimizer step `step` (0-based)."""
        return self.store.rows(self._stream.pieces(self.sizes.before(step), self.sizes.before(step + 1)))
