"""An architecture: how the keys and tensors of a GGUF file become a published config.json and published tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hyla.checkpoints.gguf.metadata import Metadata
from hyla.checkpoints.gguf.names import Names, Tensors


@dataclass(frozen=True)
class Source:
    """What an architecture is read from."""

    path: Path
    keys: Metadata
    """Below the architecture's prefix."""
    tensors: Tensors

    def in_block(self, number: int, name: str) -> bool:
        """Whether a block has a tensor."""
        return f"blk.{number}.{name}" in self.tensors

    @property
    def is_tied(self) -> bool:
        """No head of its own: it is the embedding."""
        return "output.weight" not in self.tensors


@dataclass(frozen=True)
class Architecture:
    """One value of general.architecture."""

    name: str
    config: Callable[[Source], dict]
    """-> config.json, without the tokens' ids."""
    names: Callable[[Source, dict], Names]
    """(source, its config.json) -> the rules of its tensors."""
    ignored: Mapping[str, str] = field(default_factory=dict)
    """Keys that have no effect on the model, each with its reason."""
