"""A GGUF file as a checkpoint: config, tensors and tokenizer, each read when it is asked for."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from hyla.checkpoints.gguf.architectures.registry import Translation, translate
from hyla.checkpoints.gguf.file import MAGIC
from hyla.checkpoints.gguf.metadata import Metadata
from hyla.checkpoints.gguf.parts import GGUFModel, open_file, stem_of
from hyla.checkpoints.gguf.vocabulary import Vocabulary
from hyla.checkpoints.names import known_at
from hyla.checkpoints.protocol import CheckpointConfig
from hyla.errors import CheckpointError
from hyla.models.formats.registry import family_of_published

if TYPE_CHECKING:  # configs are read without PyTorch
    import torch

    from hyla.checkpoints.gguf.reader import GGUFReader
    from hyla.checkpoints.tokenizer import Tokenizer

SUFFIX = ".gguf"
MOST_LICENCE_CHARS = 100


def is_gguf(path: Path) -> bool:
    """Whether a path is called so, or is a file that begins so."""
    if path.is_dir():
        return False
    if path.suffix == SUFFIX:
        return True
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


class GGUFCheckpoint:
    """A `Checkpoint` in one GGUF file, or in the parts of which `path` is the first."""

    def __init__(self, path: Path):
        self.path, self.name = path, stem_of(path)

    @cached_property
    def model(self) -> GGUFModel:
        """What the file says, as it says it."""
        return open_file(self.path)

    @cached_property
    def _metadata(self) -> Metadata:
        return Metadata(self.path, self.model.metadata)

    @cached_property
    def _translation(self) -> Translation:
        return translate(self.model)

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return Vocabulary(self._metadata.below("tokenizer.ggml."))

    def config(self) -> CheckpointConfig:
        """No number is read but the divisors of rotary frequencies. Raises CheckpointError or ConfigError."""
        published = {**self._translation.keys, **self._vocabulary.config_keys()}
        family = family_of_published(published)
        return CheckpointConfig(family, family.config_from_hf(published), published)

    @property
    def licence(self) -> str | None:
        """The key general.license; what is no text there says nothing, since nothing depends on it."""
        found = self.model.metadata.get("general.license")
        text = found.decode("utf-8", "replace").strip() if isinstance(found, bytes) else ""
        return text[:MOST_LICENCE_CHARS] or None

    @property
    def has_tokenizer(self) -> bool:
        return self._vocabulary.model is not None

    def tokenizer(self) -> Tokenizer:
        """Raises CheckpointError where there is none, or none that Hyla can honour."""
        from hyla.checkpoints.gguf.tokenizer import read_tokenizer

        if not self.has_tokenizer:
            raise CheckpointError(f"{self.path} has no tokenizer; give token ids, or a file with one")
        return read_tokenizer(self._metadata)

    def tensors(self, dtype: torch.dtype | None = None) -> GGUFReader:
        """Under their published names. dtype: of the numbers that are not stored as F32; None: a known model's own, or
        the reader's rule."""
        import torch

        from hyla.checkpoints.gguf.reader import GGUFReader

        known = known_at(self.path)
        if dtype is None and known is not None and known.dtype is not None:
            dtype = getattr(torch, known.dtype)
        return GGUFReader(self.model, self._translation.tensors, dtype)
