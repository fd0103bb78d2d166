"""What a format of quantised weights is: stored tensors that together are a published one. Needs no PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # configs are read without PyTorch
    import torch

    from hyla.checkpoints.quantised.stored import Headers, Parts


class Coding(Protocol):
    """How the numbers of one weight are stored."""

    def check(self, parts: Parts) -> None:
        """Look at everything but the codes (scales, zero points, groups), which is little.

        Raises CheckpointError, which names the tensor.
        """
        ...

    def decode(self, parts: Parts, into: torch.Tensor) -> None:
        """Write the numbers into `into` [out, in], piece by piece: computed in float32, rounded once to its dtype."""
        ...


@dataclass(frozen=True)
class Packed:
    """A published weight that is decoded from stored tensors. Everything here comes from their headers."""

    shape: tuple[int, int]
    """[out, in], as it would be published."""
    label: str
    """What it is stored as, in short: int4, fp8, nf4, ..."""
    parts: Mapping[str, str]
    """Role -> name of the stored tensor."""
    coding: Coding


class Quantisation(Protocol):
    """One folder's format: its config, checked."""

    @property
    def title(self) -> str:
        """For people: the format, its bits and groups."""
        ...

    def find(self, headers: Headers) -> dict[str, Packed]:
        """The packed weights by published name. Which weights are packed the files say, not lists of modules.

        Raises CheckpointError for parts that are missing or of shapes and dtypes that do not fit each other.
        """
        ...
