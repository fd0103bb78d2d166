"""What a sublayer module is, and how a mixer declares what it keeps between calls.

The cache pool, the engine's memory planner, the cost model and `hyla inspect` all read the same `CacheSpec`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Protocol

import torch

from hyla.grid import CHUNK
from hyla.layers.carry import Carry
from hyla.layers.parameters import Table
from hyla.ops.batch import Batch
from hyla.ops.slots import Role


@dataclass(frozen=True)
class TensorSpec:
    """One cached tensor of a layer: its name, the shape of one page or one slot, its dtype and its role.

    role: "kv" keys and values; "anchor" the state after the last closed chunk; "open" rows of the open chunk;
    "conv" the last inputs of the short convolution; "tail" those before the newest multiple of 64.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    role: Role

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class CacheSpec:
    """What one mixer keeps: `page_tensors` per page of 64 tokens, `slot_tensors` per sequence.

    window: keys that a row sees, its own included; pages wholly behind it are never read again. None: all are.
    """

    page_tensors: tuple[TensorSpec, ...] = ()
    slot_tensors: tuple[TensorSpec, ...] = ()
    window: int | None = None

    @property
    def bytes_per_token(self) -> int:
        return sum(spec.nbytes for spec in self.page_tensors) // CHUNK

    @property
    def bytes_per_sequence(self) -> int:
        return sum(spec.nbytes for spec in self.slot_tensors)

    def bytes_at(self, context: int) -> int:
        """Of a sequence of so many tokens: a window keeps the pages that it still reads."""
        kept = context if self.window is None else min(context, self.window + CHUNK)
        return self.bytes_per_token * kept + self.bytes_per_sequence


LayerCache = Mapping[str, torch.Tensor]
"""The pool's tensors of one layer by spec name: `[pages, *shape]` or `[slots, *shape]`."""


@dataclass(frozen=True)
class Scores:
    """Whom the rows of a softmax mixer look at: softmax over scale q . k of their sequence's keys up to their own.

    q_THK: fp32 (float64). k_TGK: heads of queries share keys as in `ops.attention`. window: keys that a row sees, its
    own included; None: all. sinks_H: a logit for each head without a value. positions_TS: the only positions that a row
    sees, filled up with -1; None: all.
    """

    q_THK: torch.Tensor
    k_TGK: torch.Tensor
    scale: float
    window: int | None = None
    sinks_H: torch.Tensor | None = None
    positions_TS: torch.Tensor | None = None


@dataclass(frozen=True)
class Inside:
    """What a mixer has between its input and its output, of whole sequences, for statistics. None: it has no such.

    log_decay: natural log, <= 0, [T, H] or [T, H, K], or [1, H] where it is constant. beta_TH: after its sigmoid. gate:
    the output gate after its non-linearity, rows first. state_NHKV: the memories after each sequence's last row.
    """

    log_decay: torch.Tensor | None = None
    beta_TH: torch.Tensor | None = None
    gate: torch.Tensor | None = None
    state_NHKV: torch.Tensor | None = None
    scores: Scores | None = None


class Mixer(Protocol):
    """A sublayer module that moves information along the sequence."""

    table: Table
    """Its parameters."""
    __call__: Callable[..., torch.Tensor]
    """`forward`, as PyTorch wraps it."""

    @property
    def operators(self) -> tuple[str, ...]:
        """Folders of `hyla.ops` that it computes with, beside the primitives and products of every module."""
        ...

    @property
    def fp32_parameters(self) -> tuple[str, ...]:
        """Names of the parameters that stay fp32 whatever the model's dtype."""
        ...

    def initialize(self, std: float, generator: torch.Generator) -> None:
        """Draw the start value of every parameter. std: of those that start as Normal(0, std)."""
        ...

    def cache_spec(self) -> CacheSpec: ...

    def forward(self, x_TD: torch.Tensor, batch: Batch, cache: LayerCache | Carry | None) -> torch.Tensor:
        """[T, D] -> [T, D]. With a cache, reads and extends the rows of `batch.slots` / `batch.pages` in place; with a
        carry, goes on from what it has and leaves what comes after."""
        ...

    def inside(self, x_TD: torch.Tensor, batch: Batch) -> Inside:
        """What `forward` has on its way for whole sequences, computed once more; `forward` keeps nothing of it."""
        ...


class ChannelMixer(Protocol):
    """A sublayer module that treats every row alone: MLP, MoE."""

    table: Table
    __call__: Callable[..., torch.Tensor]

    @property
    def operators(self) -> tuple[str, ...]: ...

    def forward(self, x_TD: torch.Tensor) -> torch.Tensor: ...
