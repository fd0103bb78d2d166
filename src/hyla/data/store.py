"""A token store on disk: documents as ids in flat files that are mapped, not read.

store.json               what it holds and what it was made of; written last, so that a store without it is not finished
tokenizer/               the tokenizer whose ids these are
train.tokens, .ends      ids (uint16 for at most 65,536 of them, else int32) and, int64, the place after each document
train.learnt             uint8 by token, of conversations only: whether the model is to write it
heldout.*                the same of documents that training never sees
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from hyla.checkpoints.tokenizer import Tokenizer, folder_tokenizer
from hyla.data.packing import TokenStore
from hyla.errors import CheckpointError
from hyla.json_files import read_json

STORE_FILE, TOKENIZER_FOLDER = "store.json", "tokenizer"
FORMAT = 1
SPLITS: tuple[Literal["train", "heldout"], ...] = ("train", "heldout")
DTYPES = {"uint16": torch.uint16, "int32": torch.int32}


@dataclass(frozen=True)
class Store:
    """A finished store, opened. Nothing of its tokens is in memory until they are used."""

    folder: Path
    train: TokenStore
    heldout: TokenStore
    record: dict
    """store.json."""

    @property
    def digest(self) -> str:
        """Of all ids: equal digests train equal models."""
        return self.record["digest"]

    def tokenizer(self) -> Tokenizer:
        return folder_tokenizer(self.folder / TOKENIZER_FOLDER)


def dtype_name(vocab_size: int) -> str:
    """The narrowest dtype of `DTYPES` for ids below vocab_size."""
    return "uint16" if vocab_size <= 1 << 16 else "int32"


def open_store(folder: Path) -> Store:
    """Map a store that `hyla data build` finished. Raises CheckpointError for one that is unfinished or damaged."""
    if not (folder / STORE_FILE).exists():
        raise CheckpointError(f"{folder} holds no finished token store ({STORE_FILE}); give `hyla data build` again")
    record = read_json(folder / STORE_FILE)
    if record.get("format") != FORMAT:
        raise CheckpointError(
            f"{folder / STORE_FILE} has format {record.get('format')!r}; this version reads {FORMAT}: build it again"
        )
    train, heldout = (_split(folder, record, split) for split in SPLITS)
    return Store(folder, train, heldout, record)


def _split(folder: Path, record: dict, split: str) -> TokenStore:
    counts = record["splits"][split]
    tokens = _mapped(folder / f"{split}.tokens", DTYPES[record["dtype"]], counts["tokens"])
    ends = _mapped(folder / f"{split}.ends", torch.int64, counts["documents"])
    learnt = _mapped(folder / f"{split}.learnt", torch.uint8, counts["tokens"]) if record["is_chat"] else None
    return TokenStore(tokens, ends, learnt)


def _mapped(file: Path, dtype: torch.dtype, count: int) -> torch.Tensor:
    """A file of numbers as a tensor over its pages. Raises CheckpointError unless it has exactly so many."""
    try:
        size = file.stat().st_size
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}; build the store again") from None
    if size != count * dtype.itemsize:
        raise CheckpointError(f"{file} has {size:,} bytes, not {count * dtype.itemsize:,}; build the store again")
    if count == 0:
        return torch.empty(0, dtype=dtype)
    return torch.from_file(str(file), shared=False, size=count, dtype=dtype)
