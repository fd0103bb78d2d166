"""New numbers of weights on their way to an engine in another process: in memory that both of them see.

The memory is a file without a name (memfd_create), which the engine's process opens through the descriptor of the one
that hands over: nothing is left of it when both have ended, however they did, and no size of /dev/shm limits it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch

from hyla.errors import ConfigError
from hyla.ops.weights import LowRank

ALIGNMENT = 64
"""Bytes: every tensor begins at a multiple of this."""


@dataclass(frozen=True)
class Stretch:
    """Where a tensor lies in the memory."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    first: int
    """Byte at which it begins."""

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * torch.Size(self.shape).numel()

    def of(self, bytes_B: torch.Tensor) -> torch.Tensor:
        """The tensor itself: a view of the memory, uint8 [B]."""
        return bytes_B[self.first : self.first + self.nbytes].view(self.dtype).view(self.shape)


@dataclass(frozen=True)
class HandedTerm:
    """A low-rank term (`LowRank`) by the names of its tensors."""

    down: str
    up: str
    magnitude: str | None
    scale: float


@dataclass(frozen=True)
class HandedWeights:
    """The message: where the numbers are, and between which versions of the weights they stand."""

    path: str
    nbytes: int
    stretches: Mapping[str, Stretch]
    """By name: weights by their names in the model, tensors of terms by others."""
    weights: tuple[str, ...]
    """Names of weights among them."""
    version: int
    """`Engine.weights_version` once they are there."""
    follows: int | None
    """The version whose other weights they belong to; None: they are a whole model's."""
    terms: Mapping[str, HandedTerm] = field(default_factory=dict)
    """By the name of the weight that each is beside."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """Views of the memory by name. Whoever filled it must not write to it while they are read."""
        bytes_B = _mapped(self.path, self.nbytes)
        return {name: stretch.of(bytes_B) for name, stretch in self.stretches.items()}

    def low_rank(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, LowRank]:
        """The terms, in memory of their own; those that share an A share it here."""
        own = {name: tensors[name].clone() for term in self.terms.values() for name in _names(term)}
        return {
            name: LowRank(own[term.down], own[term.up], term.scale, None if not term.magnitude else own[term.magnitude])
            for name, term in self.terms.items()
        }


class HandedMemory:
    """Memory for weights of these shapes and dtypes, to be filled again and again by one process."""

    def __init__(self, weights: Mapping[str, torch.Tensor], terms: Mapping[str, LowRank]):
        """terms: beside the named weights. Raises ConfigError where the system has no such memory."""
        if not hasattr(os, "memfd_create"):
            raise ConfigError(
                "an engine in a process of its own is given weights through memfd_create, which is Linux's"
            )
        self._weights, self._terms, tensors = tuple(weights), {}, dict(weights)
        by_id: dict[int, str] = {}
        for name, term in terms.items():
            for part in (term.down, term.up, term.magnitude_O):
                if part is not None and id(part) not in by_id:
                    by_id[id(part)] = f"term {len(by_id)}"
                    tensors[by_id[id(part)]] = part
            magnitude = None if term.magnitude_O is None else by_id[id(term.magnitude_O)]
            self._terms[name] = HandedTerm(by_id[id(term.down)], by_id[id(term.up)], magnitude, term.scale)
        self._stretches, self.nbytes = _laid_out(tensors)
        self._descriptor = os.memfd_create("hyla-weights")
        os.ftruncate(self._descriptor, self.nbytes)
        bytes_B = _mapped(f"/proc/self/fd/{self._descriptor}", self.nbytes)
        self._views = {name: stretch.of(bytes_B) for name, stretch in self._stretches.items()}
        self._sources = tensors

    @torch.no_grad()
    def fill(self, weights: Mapping[str, torch.Tensor], *, version: int, follows: int | None) -> HandedWeights:
        """Copy the weights' numbers of now, and those that the terms have now, and tell where they are."""
        for name, view in self._views.items():
            view.copy_(weights[name] if name in weights else self._sources[name])
        path = f"/proc/{os.getpid()}/fd/{self._descriptor}"
        return HandedWeights(path, self.nbytes, self._stretches, self._weights, version, follows, self._terms)

    def close(self) -> None:
        """Give the memory back, as soon as nobody reads it."""
        self._views = {}
        os.close(self._descriptor)


def _laid_out(tensors: Mapping[str, torch.Tensor]) -> tuple[dict[str, Stretch], int]:
    """One after another, and the bytes of all, which are some."""
    found, first = {}, 0
    for name, tensor in tensors.items():
        found[name] = Stretch(tensor.dtype, tuple(tensor.shape), first)
        first += -(-found[name].nbytes // ALIGNMENT) * ALIGNMENT
    return found, max(first, ALIGNMENT)


def _mapped(path: str, nbytes: int) -> torch.Tensor:
    return torch.from_file(path, shared=True, size=nbytes, dtype=torch.uint8)


def _names(term: HandedTerm) -> Iterable[str]:
    return (name for name in (term.down, term.up, term.magnitude) if name is not None)
