"""Documents as packed steps: which tokens step s reads is a pure function of (seed, s)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from hyla.errors import ConfigError
from hyla.ops.batch import Batch

EPOCH_SEED_STRIDE = 1_000_003
"""Keeps the shuffles of (seed, epoch) apart for all small seeds and epochs."""


class TokenStore:
    """Documents as one flat tensor.

    tokens: int32 [sum of lengths], each document with its end-of-text tokens at both ends.
    ends:   int64 [documents], flat position after each document's last token.
    """

    def __init__(self, tokens: torch.Tensor, ends: torch.Tensor):
        self.tokens, self.ends = tokens, ends

    @classmethod
    def from_lists(cls, documents: Sequence[Sequence[int]]) -> TokenStore:
        flat = [token for document in documents for token in document]
        lengths = torch.tensor([len(document) for document in documents], dtype=torch.int64)
        return cls(torch.tensor(flat, dtype=torch.int32), lengths.cumsum(0))

    def pieces(self, max_tokens: int) -> list[tuple[int, int]]:
        """(first row, rows) of every piece. Row i predicts token i + 1 of the same document, so a document of n
        tokens has n - 1 rows; pieces are at most max_tokens rows."""
        pieces, start = [], 0
        for end in self.ends.tolist():
            for first in range(start, end - 1, max_tokens):
                pieces.append((first, min(max_tokens, end - 1 - first)))
            start = end
        return pieces

    def rows(self, pieces: Sequence[tuple[int, int]]) -> PackedRows:
        """The pieces' inputs and targets, one after the other."""
        inputs = torch.cat([self.tokens[first : first + length] for first, length in pieces])
        targets = torch.cat([self.tokens[first + 1 : first + length + 1] for first, length in pieces])
        return PackedRows(inputs.long(), targets.long(), tuple(length for _, length in pieces))


@dataclass(frozen=True)
class PackedRows:
    """Rows of one forward: tokens and next tokens int64 [T], and the length of each piece. Pieces share no state."""

    tokens_T: torch.Tensor
    targets_T: torch.Tensor
    lengths: tuple[int, ...]

    @property
    def batch(self) -> Batch:
        return Batch.packed(self.lengths, device=self.tokens_T.device)

    def to(self, device: torch.device) -> PackedRows:
        """The same rows on a device: one copy."""
        tokens_T, targets_T = torch.stack([self.tokens_T, self.targets_T]).to(device)
        return PackedRows(tokens_T, targets_T, self.lengths)


class Packer:
    """Cuts the shuffled stream of pieces into steps of exactly `batch_tokens` rows.

    Every epoch is one permutation of the pieces; a step takes the next batch_tokens rows of that stream, so a piece
    may be cut once more at a step's edge (its second part then starts without memory). The rows left at the end of an
    epoch, fewer than one step, are not read in that epoch.
    """

    def __init__(self, store: TokenStore, *, batch_tokens: int, max_document_tokens: int, seed: int):
        self.store, self.batch_tokens, self.seed = store, batch_tokens, seed
        self.pieces = store.pieces(max_document_tokens)
        self.num_rows = sum(length for _, length in self.pieces)
        if self.num_rows < batch_tokens:
            raise ConfigError(
                f"the training documents hold {self.num_rows} tokens, less than one step of batch_tokens = "
                f"{batch_tokens}; add text or lower batch_tokens"
            )
        self._epoch = lru_cache(maxsize=2)(self._shuffled)

    @property
    def steps_per_epoch(self) -> int:
        return self.num_rows // self.batch_tokens

    def _shuffled(self, epoch: int) -> tuple[list[tuple[int, int]], torch.Tensor]:
        """Pieces in the epoch's order and the stream position after each."""
        generator = torch.Generator().manual_seed(self.seed + EPOCH_SEED_STRIDE * (epoch + 1))
        order = torch.randperm(len(self.pieces), generator=generator).tolist()
        pieces = [self.pieces[index] for index in order]
        return pieces, torch.tensor([length for _, length in pieces]).cumsum(0)

    def step(self, step: int) -> PackedRows:
        """The rows of optimizer step `step` (0-based)."""
        epoch, index = divmod(step, self.steps_per_epoch)
        pieces, stream_ends = self._epoch(epoch)
        first, last = index * self.batch_tokens, (index + 1) * self.batch_tokens
        number = int(torch.searchsorted(stream_ends, first, right=True))
        taken = []
        while first < last:
            piece_first, length = pieces[number]
            stream_end = int(stream_ends[number])
            skipped = first - (stream_end - length)
            rows = min(stream_end, last) - first
            taken.append((piece_first + skipped, rows))
            first += rows
            number += 1
        return self.store.rows(taken)
