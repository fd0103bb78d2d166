"""A checkpoint: a model that somebody saved, in whatever form. Needs no PyTorch."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hyla.models.config import ModelConfig
from hyla.models.formats.family import Family

if TYPE_CHECKING:  # configs are read without PyTorch
    import torch

    from hyla.checkpoints.files import TensorSource
    from hyla.checkpoints.quantised import Quantisation
    from hyla.checkpoints.tokenizer import Tokenizer


@dataclass(frozen=True)
class CheckpointConfig:
    """What a checkpoint says about its model."""

    family: Family
    config: ModelConfig
    published: dict
    """config.json as it is; of other forms, what would stand there."""
    quantization: dict | None = None
    """Its quantization_config, checked, of FP8 weights that stay FP8."""
    packing: Quantisation | None = None
    """How weights are quantised that are decoded when they are read."""


class Checkpoint(Protocol):
    """Config, tensors and tokenizer of one model. Making one reads nothing yet; `checkpoints.opening` makes them."""

    path: Path
    """The folder or file, as it was given."""
    name: str
    """What the model is called after it."""

    def config(self) -> CheckpointConfig:
        """Raises CheckpointError or ConfigError."""
        ...

    @property
    def licence(self) -> str | None:
        """As the checkpoint calls it; None where it does not say."""
        ...

    @property
    def has_tokenizer(self) -> bool: ...

    def tokenizer(self) -> Tokenizer:
        """Raises CheckpointError where there is none, or it is broken."""
        ...

    def tensors(self, dtype: torch.dtype | None = None) -> AbstractContextManager[TensorSource]:
        """The tensors by published name.

        dtype: what the caller will compute in, for forms whose numbers are codes and are given in it (None: their own
        rule); what is stored as plain numbers is given as it is stored.
        """
        ...
