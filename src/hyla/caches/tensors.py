"""The tensors of a pool, and the one place that carries commands out on them."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as List

import torch

from hyla.caches.commands import Command
from hyla.caches.ledger import Ledger
from hyla.caches.storage import SnapshotDtype, SnapshotStore, allocate
from hyla.layers.protocol import CacheSpec, LayerCache


class PoolTensors:
    """Pages, slots and snapshots of some layers on one device; row 0 of each tensor is the null row.

    specs: of the layers, or of the part of them that this rank has. ledger: says how many units there are.
    """

    def __init__(self, specs: List[CacheSpec], ledger: Ledger, snapshot_dtype: SnapshotDtype, device: torch.device):
        self._specs, self._ledger, self._device = tuple(specs), ledger, device
        self._snapshot_dtype: SnapshotDtype = snapshot_dtype
        self.allocate()

    def allocate(self) -> None:
        """Make the tensors, all zero: at the start, and again after `release`."""
        ledger, device = self._ledger, self._device
        counts = [ledger.pages_of(spec.window).total if spec.page_tensors else 0 for spec in self._specs]
        pages = [allocate(spec.page_tensors, count, device) for spec, count in zip(self._specs, counts)]
        self._slots = tuple(allocate(spec.slot_tensors, ledger.slots.total, device) for spec in self._specs)
        self.layers: tuple[LayerCache, ...] = tuple({**p, **s} for p, s in zip(pages, self._slots))
        self.snapshots = SnapshotStore(self._specs, ledger.snapshots.total, self._snapshot_dtype, device)

    def release(self) -> None:
        """Free the tensors."""
        self._slots = self.layers = ()
        self.snapshots = SnapshotStore((), 0, self._snapshot_dtype, self._device)

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for layer in self.layers for tensor in layer.values()) + self.snapshots.nbytes

    def pages_of(self, window: int | None) -> Iterator[torch.Tensor]:
        """Every page tensor of a window."""
        for spec, layer in zip(self._specs, self.layers):
            if spec.window == window:
                yield from (layer[tensor.name] for tensor in spec.page_tensors)

    def slots_of(self) -> Iterator[torch.Tensor]:
        """Every slot tensor."""
        for layer in self._slots:
            yield from layer.values()

    def apply(self, command: Command) -> None:
        """Carry a command out. Repeating one that was cut off in its middle is right: none reads what it writes."""
        if command.verb == "save":
            self.snapshots.save(self._slots, command.items)
            return
        if command.verb == "load":
            self.snapshots.load(self._slots, command.items)
            return
        tensors = self.pages_of(command.window) if command.verb.endswith("pages") else self.slots_of()
        change = _zero if command.verb.startswith("zero") else _copy
        # One row needs no index on the device and no copy in between.
        is_one = len(command.items) == 1
        index = command.items[0] if is_one else torch.tensor(command.items, device=self._device).T
        for tensor in tensors:
            change(tensor, *index)


Rows = torch.Tensor | int
"""Rows of a tensor, or one."""


def _zero(tensor: torch.Tensor, rows: Rows) -> None:
    if isinstance(rows, int):
        tensor[rows].zero_()
    else:
        tensor.index_fill_(0, rows, 0)


def _copy(tensor: torch.Tensor, sources: Rows, targets: Rows) -> None:
    if isinstance(sources, int) or isinstance(targets, int):
        tensor[targets].copy_(tensor[sources])
    else:
        tensor.index_copy_(0, targets, tensor.index_select(0, sources))
