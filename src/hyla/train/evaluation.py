"""Held-out bits per byte: of a model, of a unigram model over the same tokens, and of gzip -9."""

from __future__ import annotations

import gzip
import math
from collections.abc import Sequence

import torch

from hyla.data.packing import TokenStore
from hyla.models.trunk import Model
from hyla.ops.exact.logprobs import of_tokens
from hyla.train.corpus import Document

EVALUATION_ROWS = 4096
"""Rows of one scoring call."""

LOSS_ROWS = 512
"""Rows whose logits live at once."""


def heldout_sample(documents: Sequence[Document], max_bytes: int) -> tuple[Document, ...]:
    """The first documents of at most max_bytes together; the first one is cut when it alone is longer."""
    taken, total = [], 0
    for document in documents:
        if total + len(document.data) <= max_bytes:
            taken.append(document)
            total += len(document.data)
    if not taken:
        text = documents[0].data[:max_bytes].decode("utf-8", errors="ignore")
        taken.append(Document(documents[0].name, text))
    return tuple(taken)


def num_bytes(documents: Sequence[Document]) -> int:
    return sum(len(document.data) for document in documents)


def model_bits(model: Model, store: TokenStore, *, window: int) -> float:
    """Bits that the model needs for all tokens of the store, end-of-text included.

    A document longer than `window` tokens is scored in windows that know nothing of each other.
    """
    everything = TokenStore(store.tokens, store.ends)
    return _total_nats(model, everything, store.pieces(window)) / math.log(2)


def nats_per_token(model: Model, store: TokenStore, *, window: int, most_tokens: int) -> tuple[float, int]:
    """(mean cross-entropy of the first tokens of a store, how many they are); of conversations, of what is learnt."""
    pieces, tokens = [], 0
    for piece in store.pieces(window):
        if tokens >= most_tokens:
            break
        pieces.append((piece[0], min(piece[1], most_tokens - tokens)))
        tokens += pieces[-1][1]
    scored = tokens if store.learnt is None else store.rows(pieces).num_learnt
    return _total_nats(model, store, pieces) / max(1, scored), scored


@torch.no_grad()
def _total_nats(model: Model, store: TokenStore, pieces: Sequence[tuple[int, int]]) -> float:
    total, waiting = torch.zeros((), dtype=torch.float64, device=model.device), []
    for number, piece in enumerate(pieces):
        waiting.append(piece)
        if sum(length for _, length in waiting) < EVALUATION_ROWS and number + 1 < len(pieces):
            continue
        rows = store.rows(waiting).to(model.device)
        hidden_TD, targets_T = model(rows.tokens_T, rows.batch), rows.targets_T
        if rows.is_learnt_T is not None:
            hidden_TD, targets_T = hidden_TD[rows.is_learnt_T], targets_T[rows.is_learnt_T]
        for hidden_RD, targets_R in zip(hidden_TD.split(LOSS_ROWS), targets_T.split(LOSS_ROWS)):
            total -= of_tokens(model.head_logits(hidden_RD), targets_R).sum(dtype=torch.float64)
        waiting = []
    return total.item()


def unigram_bits(train: Sequence[TokenStore], heldout: TokenStore, vocab_size: int) -> float:
    """Bits of the held-out tokens under the training tokens' frequencies, each count raised by one."""
    counts = torch.ones(vocab_size, dtype=torch.float64)
    for store in train:
        counts += torch.bincount(store.tokens.long(), minlength=vocab_size)
    bits = -torch.log2(counts / counts.sum())
    pieces = heldout.pieces(1 << 30)
    return bits[heldout.rows(pieces).targets_T].sum().item()


def gzip_bits(documents: Sequence[Document]) -> tuple[int, int]:
    """Bits of gzip -9: (each file alone, all files as one stream)."""
    alone = sum(len(gzip.compress(document.data, 9, mtime=0)) for document in documents)
    together = len(gzip.compress(b"".join(document.data for document in documents), 9, mtime=0))
    return 8 * alone, 8 * together
