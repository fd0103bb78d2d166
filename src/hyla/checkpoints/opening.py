"""Folders and GGUF files alike: what a path is, and its config and tokenizer. Needs no PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hyla.checkpoints.folder import Folder
from hyla.checkpoints.gguf.checkpoint import GGUFCheckpoint, is_gguf
from hyla.checkpoints.hub import resolve
from hyla.checkpoints.protocol import Checkpoint, CheckpointConfig

if TYPE_CHECKING:  # configs are read without PyTorch
    from hyla.checkpoints.tokenizer import Tokenizer


def open_checkpoint(path: str | Path) -> Checkpoint:
    """The checkpoint of a folder in the Hugging Face format, or of a GGUF file. Nothing is read yet."""
    path = Path(path)
    return GGUFCheckpoint(path) if is_gguf(path) else Folder(path)


def read_config(path: str | Path) -> CheckpointConfig:
    """What a folder's config.json says, and the end tokens of its generation_config.json; or a GGUF file's metadata.

    Raises CheckpointError or ConfigError.
    """
    return open_checkpoint(path).config()


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The published tokenizer of a folder, a GGUF file, or a model by its name (`resolve`). Nothing in it is executed;
    templates run in a sandbox.

    Raises CheckpointError when there is none, or it is broken.
    """
    return open_checkpoint(resolve(path, with_weights=False)).tokenizer()
