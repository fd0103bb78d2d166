"""The tokenizer of a model with an adapter. Needs no PyTorch."""

from __future__ import annotations

from pathlib import Path

from hyla.checkpoints.protocol import Checkpoint
from hyla.checkpoints.tokenizer import Tokenizer, folder_tokenizer, has_tokenizer


def tokenizer_beside(checkpoint: Checkpoint, adapter: str | Path | None) -> Tokenizer | None:
    """An adapter's own tokenizer where it has one (it may know new tokens), else the model's, if there is one."""
    if adapter is not None and has_tokenizer(Path(adapter)):
        return folder_tokenizer(Path(adapter))
    return checkpoint.tokenizer() if checkpoint.has_tokenizer else None
