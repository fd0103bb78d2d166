"""What `CacheSpec`s need room for: bytes of pages, slots and snapshots, and the store of snapshots."""

from __future__ import annotations

from collections.abc import Sequence as List
from math import prod
from typing import Literal

import numpy as np
import torch

from hyla.layers.protocol import CacheSpec, LayerCache, TensorSpec
from hyla.ops.short_conv.tail import restore_ring

SnapshotDtype = Literal["float32", "bfloat16", "int8"]

ALIGNMENT = 64
"""Bytes: PyTorch's own, and a vector's at most."""
SNAPSHOT_ROLES = ("anchor", "tail")
"""What a snapshot at a multiple of 64 consists of: there the open chunk is empty."""


def page_bytes(specs: List[CacheSpec], window: int | None = None) -> int:
    """Bytes of one page of 64 tokens over the layers with this window (None: those that see everything)."""
    return sum(tensor.nbytes for spec in specs if spec.window == window for tensor in spec.page_tensors)


def slot_bytes(specs: List[CacheSpec]) -> int:
    """Bytes of one sequence's slot over all layers."""
    return sum(tensor.nbytes for spec in specs for tensor in spec.slot_tensors)


def snapshot_bytes(specs: List[CacheSpec], dtype: SnapshotDtype = "float32") -> int:
    """Bytes of one snapshot over all layers, its window pages not counted."""
    return sum(
        tensor.nbytes
        for spec in specs
        for parts in _snapshot_tensors(spec, dtype).values()
        for tensor in parts.values()
    )


def windows_of(specs: List[CacheSpec]) -> tuple[int, ...]:
    """The window lengths of layers with pages, ascending."""
    return tuple(sorted({spec.window for spec in specs if spec.page_tensors and spec.window is not None}))


def allocate(tensors: List[TensorSpec], count: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Zeros [count + 1, *shape] by name; row 0 is the null row."""
    return {spec.name: zeros((count + 1, *spec.shape), spec.dtype, device) for spec in tensors}


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros. On the CPU the system hands out zeroed memory page by page when it is first touched, where `torch.zeros`
    writes all of it at once: a cache of 4 GiB costs 3 seconds of every start."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    nbytes = prod(shape) * dtype.itemsize
    spare = np.zeros(nbytes + ALIGNMENT, dtype=np.uint8)
    first = -spare.ctypes.data % ALIGNMENT
    return torch.from_numpy(spare[first : first + nbytes]).view(dtype).view(shape)


def _snapshot_tensors(spec: CacheSpec, dtype: SnapshotDtype) -> dict[str, dict[str, TensorSpec]]:
    """By slot tensor: what keeps a copy of it; "scale" only beside int8."""
    kept = {}
    for tensor in spec.slot_tensors:
        if tensor.role not in SNAPSHOT_ROLES:
            continue
        if tensor.role == "tail" or dtype == "float32":
            kept[tensor.name] = {"values": tensor}
            continue
        values = TensorSpec(tensor.name, tensor.shape, getattr(torch, dtype), tensor.role)
        kept[tensor.name] = {"values": values}
        if dtype == "int8":
            scale = TensorSpec(tensor.name, (*tensor.shape[:-1], 1), torch.float32, tensor.role)
            kept[tensor.name]["scale"] = scale
    return kept


class SnapshotStore:
    """Snapshots of slots at multiples of 64.

    dtype: of the anchors. float32 is exact. bfloat16 halves their bytes; int8 (one scale per row of the state, its
    largest magnitude over 127) quarters them: both change what follows, once, when a snapshot is taken.
    """

    def __init__(self, specs: List[CacheSpec], count: int, dtype: SnapshotDtype, device: torch.device):
        self.dtype = dtype
        self.layers: tuple[dict[str, dict[str, torch.Tensor]], ...] = tuple(
            {
                name: {part: allocate([tensor], count, device)[tensor.name] for part, tensor in parts.items()}
                for name, parts in _snapshot_tensors(spec, dtype).items()
            }
            for spec in (specs if count else ())
        )

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for layer in self.layers for parts in layer.values() for tensor in parts.values())

    def save(self, slots: List[LayerCache], pairs: List[tuple[int, ...]]) -> None:
        """Copy anchors and tails of slots into snapshots. pairs: (slot, snapshot)."""
        sources, units = map(list, zip(*pairs))
        for layer, cache in zip(self.layers, slots):
            for name, parts in layer.items():
                source = cache[name][sources]
                if "scale" in parts:
                    scale = source.abs().amax(-1, keepdim=True) / 127.0
                    parts["scale"][units] = scale
                    source = (source / scale.clamp_min(torch.finfo(torch.float32).tiny)).round()
                parts["values"][units] = source.to(parts["values"].dtype)

    def load(self, slots: List[LayerCache], triples: List[tuple[int, ...]]) -> None:
        """Make zeroed slots what they were. triples: (snapshot, slot, tokens then, a multiple of 64)."""
        units, targets, _ = map(list, zip(*triples))
        for layer, cache in zip(self.layers, slots):
            for name, parts in layer.items():
                values = parts["values"][units]
                loaded = values * parts["scale"][units] if "scale" in parts else values
                cache[name][targets] = loaded.to(cache[name].dtype)
            if "conv_tail" in layer:
                for _, slot, length in triples:
                    restore_ring(cache["conv"], cache["conv_tail"], slot, length)
