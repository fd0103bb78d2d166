"""Text as bytes: ids 0 to 255, and 256 behind every document. Training, validation and test have files of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from hyla.data.packing import TokenStore
from hyla.train.corpus import Document, read_corpus

END_OF_DOCUMENT = 256
TEXT_IDS = 257
HELDOUT_SHARE = 0.08
"""Share of the files that are not trained on: half of them choose rates, half are the test."""


@dataclass(frozen=True)
class Text:
    """Documents as bytes. digest: of all of them and where they belong."""

    train: TokenStore
    validation: TokenStore
    test: TokenStore
    digest: str


def store_of(documents: Sequence[Document]) -> TokenStore:
    """Bytes of documents, in their order, each with its end."""
    parts = [
        np.append(np.frombuffer(document.data, np.uint8).astype(np.int32), END_OF_DOCUMENT) for document in documents
    ]
    ends = np.cumsum([len(part) for part in parts])
    return TokenStore(torch.from_numpy(np.concatenate(parts)), torch.from_numpy(ends))


def is_test(name: str) -> bool:
    """Whether a file that is held out is of the test; else it is of the validation."""
    return hashlib.sha256(f"test {name}".encode()).digest()[0] % 2 == 0


@lru_cache(maxsize=2)
def read_text(folder: Path | None) -> Text:
    """A folder of text; None: the source of Python's standard library."""
    corpus = read_corpus(folder, heldout_share=HELDOUT_SHARE)
    by_use = {use: [d for d in corpus.heldout if is_test(d.name) == use] for use in (False, True)}
    if not all(by_use.values()):  # a folder of few files: what there is serves both, cut in two
        by_use = {use: [_half(d, use) for d in corpus.heldout] for use in (False, True)}
    return Text(store_of(corpus.train), store_of(by_use[False]), store_of(by_use[True]), corpus.fingerprint)


def _half(document: Document, second: bool) -> Document:
    middle = len(document.text) // 2
    return Document(document.name, document.text[middle:] if second else document.text[:middle])
