"""The tensors of a GGUF model under their published names, with their published values, read when they are used."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
import torch

from hyla.checkpoints.files import DTYPE_NAMES
from hyla.checkpoints.gguf.names import Published, Slice
from hyla.checkpoints.gguf.parts import GGUFModel
from hyla.checkpoints.gguf.quants import decode_rows, num_rows
from hyla.errors import CheckpointError

logger = logging.getLogger("hyla.checkpoints")

PIECE = 1 << 20
"""Numbers that are decoded at a time."""
EMBEDDING = "token_embd.weight"


class GGUFReader:
    """A `TensorSource` over a GGUF file or its parts.

    published: what the architecture makes of the stored tensors.
    dtype: of the numbers that are not stored as F32; None: float32 when the file holds nothing but F32, else bfloat16.
    Numbers are decoded in float32 and rounded once. Those stored as F32 stay so, whatever dtype says (the loader casts
    what it places), except for an embedding in a file of another type: a model's dtype is that of its embedding.
    """

    def __init__(self, model: GGUFModel, published: Mapping[str, Published], dtype: torch.dtype | None = None):
        self._published = published
        self.writer = None
        stored = Counter(info.stored.name for info in model.tensors.values())
        self._is_plain = set(stored) <= {"F32"}
        self._dtype = dtype or (torch.float32 if self._is_plain else torch.bfloat16)
        if not self._is_plain:
            kinds = ", ".join(f"{count} {name}" for name, count in stored.most_common())
            logger.info("%s: %s tensors; those that are not F32 become %s", model.path.name, kinds, self._dtype)

    def __enter__(self) -> GGUFReader:
        return self

    def __exit__(self, *_):
        """Nothing to do: the mapping goes when the last view of it does."""

    def __iter__(self) -> Iterator[str]:
        return iter(self._published)

    def __contains__(self, name: str) -> bool:
        return name in self._published

    def shape(self, name: str) -> tuple[int, ...]:
        return self._published[name].shape

    def dtype(self, name: str) -> str:
        """Of the numbers that `tensor` gives, in safetensors' spelling."""
        return DTYPE_NAMES[self._given(self._published[name])]

    def stored_as(self, name: str) -> str:
        """In ggml's spelling; of several, the first's."""
        return self._published[name].slices[0].info.stored.name

    def nbytes(self, name: str) -> int:
        """Bytes of what is stored."""
        return sum(part.nbytes for part in self._published[name].slices)

    def _given(self, made: Published) -> torch.dtype:
        infos = [part.info for part in made.slices]
        is_wide = all(info.stored.name == "F32" for info in infos)
        if infos[0].stored.name == "F16" and len(made.shape) == 1:  # a norm of somebody's: bfloat16 would round it
            return torch.promote_types(self._dtype, torch.float32)
        return torch.float32 if is_wide and (self._is_plain or infos[0].name != EMBEDDING) else self._dtype

    def check_values(self, name: str) -> None:
        """Scales stand inside the blocks: what is not finite is found when it is decoded."""

    def tensor(self, name: str) -> torch.Tensor:
        """The published numbers, in memory of their own."""
        made = self._published[name]
        dtype = self._given(made)
        if made.undo is None:
            return _converted(made.slices[0], dtype).reshape(made.shape)
        decoded = [_rows(part, part.first, part.last).reshape(part.shape) for part in made.slices]
        try:
            found = np.array(made.undo(*decoded), order="C").reshape(made.shape)
        except ValueError as error:
            raise CheckpointError(
                f"{made.slices[0].info.file}: {name} cannot be made of stored shapes "
                f"{[part.shape for part in made.slices]}: {error}; convert the model again"
            ) from error
        return torch.from_numpy(found).to(dtype)

    def forget(self, name: str) -> None:
        """The file's pages stay mapped until the reader goes: they are fewer than the numbers', as a rule."""


def _converted(part: Slice, dtype: torch.dtype) -> torch.Tensor:
    """Rows of a stored tensor in a dtype, a piece at a time, so that the float32 numbers never exist as a whole."""
    row = part.info.shape[-1]
    whole = torch.empty(part.last - part.first, row, dtype=dtype)
    step = max(1, PIECE // row)
    for first in range(part.first, part.last, step):
        last = min(first + step, part.last)
        numbers = _rows(part, first, last)
        # PyTorch wants no memory that cannot be written to, which numbers are that the file has just so.
        piece = torch.from_numpy(numbers if numbers.flags.writeable else numbers.copy())
        whole[first - part.first : last - part.first].copy_(piece)
    return whole


def _rows(part: Slice, first: int, last: int) -> np.ndarray:
    """Some of a slice's rows as numbers, with the scale beside them."""
    rows = decode_rows(part.info, first, last)
    if part.scale is None:
        return rows
    factors = decode_rows(part.scale, 0, num_rows(part.scale)).reshape(-1)
    if factors.size == 1:
        return rows * factors
    entries = part.info.shape[0]
    if len(part.info.shape) != 3 or factors.size != entries:
        raise CheckpointError(
            f"{part.info.file}: tensor {part.scale.name} has {factors.size:,} factors for {part.info.name} "
            f"{part.info.shape}; convert the model again"
        )
    each = num_rows(part.info) // entries
    return rows * factors[np.arange(first, last) // each, None]
