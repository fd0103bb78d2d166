"""A quantised folder's tensors as plain ones under their published names, decoded when they are used."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from math import prod
from pathlib import Path

import torch

from hyla.checkpoints.files import DTYPE_NAMES, ShardReader
from hyla.checkpoints.quantised import numbers
from hyla.checkpoints.quantised.protocol import Packed, Quantisation
from hyla.checkpoints.quantised.stored import WAY_OUT, Headers, Parts
from hyla.errors import CheckpointError

logger = logging.getLogger("hyla.checkpoints")

ACTIVATIONS = "how other engines round activations, which are not quantised here"
CACHE = "how other engines keep keys and values, which are not quantised here"
UNUSED = {
    "input_scale": ACTIVATIONS,
    "input_zero_point": ACTIVATIONS,
    "input_global_scale": ACTIVATIONS,
    "input_scale_ub": ACTIVATIONS,
    "activation_scale": ACTIVATIONS,
    "output_scale": CACHE,
    "output_zero_point": CACHE,
    "k_scale": CACHE,
    "v_scale": CACHE,
    "kv_scale": CACHE,
    "q_scale": CACHE,
    "prob_scale": CACHE,
    "k_zero_point": CACHE,
    "v_zero_point": CACHE,
    "k_global_scale": CACHE,
    "v_global_scale": CACHE,
}
"""Last parts of names of tensors that are left out."""


class QuantisedReader:
    """A `TensorSource` over shards with packed weights.

    embedding: the stored name of the model's embedding. dtype: of the numbers that are decoded; None: that in which the
    embedding is stored, or `fallback` where it is packed itself. float16, in which Hyla does not compute, becomes
    bfloat16 then, of plain matrices too. Everything else that is stored plain is given as it is.
    """

    def __init__(
        self,
        place: Path,
        shards: ShardReader,
        quantisation: Quantisation,
        *,
        embedding: str | None,
        dtype: torch.dtype | None,
        fallback: torch.dtype,
    ):
        self._place, self._shards, self.writer = place, shards, shards.writer
        self._packed = quantisation.find(Headers(place, shards))
        used = {name for packed in self._packed.values() for name in packed.parts.values()}
        kept = (name for name in shards if name not in used and name.rpartition(".")[2] not in UNUSED)
        self._plain = dict.fromkeys(kept)
        self._refuse_twice()
        is_plain = embedding is not None and embedding not in self._packed
        own = {"F32": torch.float32, "F64": torch.float64, "BF16": torch.bfloat16, "F16": torch.bfloat16}
        stored = own.get(shards.dtype(embedding), fallback) if is_plain and embedding is not None else fallback
        self._dtype = dtype or stored
        self._log(quantisation, used)

    def _refuse_twice(self) -> None:
        twice = sorted(self._plain.keys() & self._packed.keys())
        if twice:
            raise CheckpointError(
                f"{self._place}: tensor {twice[0]} is stored both packed and plain; remove one of the two"
            )

    def _log(self, quantisation: Quantisation, used: set[str]) -> None:
        held = sum(prod(packed.shape) for packed in self._packed.values()) * self._dtype.itemsize
        stored = sum(map(self.nbytes, self._packed))
        logger.info(
            "%s: %s: %d weights are dequantised to %s as they are loaded: %s bytes of memory for %s stored ones",
            self._place,
            quantisation.title,
            len(self._packed),
            str(self._dtype).removeprefix("torch."),
            f"{held:,}",
            f"{stored:,}",
        )
        left_out = Counter(UNUSED.get(name.rpartition(".")[2]) for name in self._shards if name not in used)
        for reason, count in left_out.items():
            if reason is not None:
                logger.warning("%s: ignored %d tensors: %s", self._place, count, reason)

    def __enter__(self) -> QuantisedReader:
        return self

    def __exit__(self, *_):
        self._shards.close()

    def __iter__(self) -> Iterator[str]:
        yield from self._plain
        yield from self._packed

    def __contains__(self, name: str) -> bool:
        return name in self._packed or name in self._plain

    def shape(self, name: str) -> tuple[int, ...]:
        return self._packed[name].shape if name in self._packed else self._shards.shape(name)

    def dtype(self, name: str) -> str:
        """Of the numbers that `tensor` gives, in safetensors' spelling."""
        return DTYPE_NAMES[self._dtype] if self._is_given_in_dtype(name) else self._shards.dtype(name)

    def stored_as(self, name: str) -> str:
        """The format of packed weights, in short."""
        return self._packed[name].label if name in self._packed else self._shards.dtype(name)

    def nbytes(self, name: str) -> int:
        """Bytes of what is stored."""
        if name not in self._packed:
            return self._shards.nbytes(name)
        return sum(map(self._shards.nbytes, self._packed[name].parts.values()))

    def check_values(self, name: str) -> None:
        """Raise CheckpointError when scales, zero points or groups of a packed weight make no numbers."""
        if name in self._packed:
            self._packed[name].coding.check(self._parts(self._packed[name]))

    def tensor(self, name: str) -> torch.Tensor:
        """The published numbers; of packed weights in memory of their own."""
        packed = self._packed.get(name)
        if packed is None:
            found = self._shards.tensor(name)
            return found.to(self._dtype) if self._is_given_in_dtype(name) else found
        self.check_values(name)
        into = torch.empty(packed.shape, dtype=self._dtype)
        packed.coding.decode(self._parts(packed), into)
        if not numbers.is_finite(into):
            raise CheckpointError(
                f"{self._place}: {name} ({packed.label}) holds numbers that are not finite; {WAY_OUT}"
            )
        return into

    def forget(self, name: str) -> None:
        packed = self._packed.get(name)
        for part in [name] if packed is None else packed.parts.values():
            self._shards.forget(part)

    def _is_given_in_dtype(self, name: str) -> bool:
        """Packed weights, and matrices in float16; vectors in float16 stay, since bfloat16 would round them."""
        is_half = name not in self._packed and self._shards.dtype(name) == "F16"
        return name in self._packed or (is_half and len(self._shards.shape(name)) > 1)

    def _parts(self, packed: Packed) -> Parts:
        return Parts(self._place, self._shards, packed.parts)
