"""Name rules: how published tensors become ours and back, each rule exact in both directions.

A family lists, for each kind of sublayer, a table of rules with published names relative to the published layer and
our names relative to the sublayer's module. A rule is written as two functions on tensors; the published shapes come
from running `to_published` on our (meta) tensors, so a table needs no shapes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from hyla.models.config import Config
from hyla.ops.weights.blocks import BlockLayout, Shard, num_blocks, starts_block

if TYPE_CHECKING:  # the tables themselves, and with them every published size, are read without PyTorch
    import torch

    Tensors = list[torch.Tensor]


@dataclass(frozen=True)
class Rule:
    """Base: `published` names <-> `ours`, unchanged (one to one)."""

    published: tuple[str, ...]
    ours: tuple[str, ...]

    def bind(self, module: Config) -> Rule:
        """The rule for one module: field names in it replaced by the numbers of its config."""
        return self

    def with_prefixes(self, published: str, ours: str) -> Rule:
        """The rule with full names on both sides."""
        return replace(
            self,
            published=tuple(published + name for name in self.published),
            ours=tuple(ours + name for name in self.ours),
        )

    def to_ours(self, published: Tensors, shapes: Sequence[tuple[int, ...]]) -> Tensors:
        """Published tensors -> ours, of the given shapes; may return views."""
        return published

    def to_published(self, ours: Tensors) -> Tensors:
        """The inverse; may return views."""
        return ours

    def published_layout(self, published: tuple[int, ...]) -> BlockLayout:
        """The blocks of an FP8 tensor of that published shape."""
        return BlockLayout(published)

    def layouts(self, shapes: Sequence[tuple[int, ...]]) -> list[BlockLayout] | None:
        """The blocks of ours, of the given shapes, when the published tensors are FP8 and stay so.

        None: the rule cuts blocks or moves numbers across them; such weights are dequantised when they are loaded.
        """
        return [BlockLayout(tuple(shape)) for shape in shapes] if type(self) is Rule else None

    def scales_to_ours(self, scales: Tensors, shapes: Sequence[tuple[int, ...]]) -> Tensors:
        """Published scales -> those of ours, of the given shapes; for rules that keep blocks."""
        return self.to_ours(scales, [num_blocks(shape) for shape in shapes])

    def scales_to_published(self, scales: Tensors, shapes: Sequence[tuple[int, ...]]) -> Tensors:
        """The inverse of `scales_to_ours`."""
        return self.to_published(scales)


@dataclass(frozen=True)
class Reshape(Rule):
    """Published with other dimensions of size one, e.g. a convolution [C, 1, L] for our [C, L]."""

    shape: tuple[int, ...]
    """Published shape; -1 and 0 (the dimension of ours at that place) as in reshape."""

    def to_ours(self, published: Tensors, shapes: Sequence[tuple[int, ...]]) -> Tensors:
        return [published[0].reshape(shapes[0])]

    def to_published(self, ours: Tensors) -> Tensors:
        return [ours[0].reshape(_published_shape(self.shape, ours[0].shape))]


@dataclass(frozen=True)
class Concat(Rule):
    """Several published tensors of equal shape are ours one after another, e.g. three convolutions."""

    shape: tuple[int, ...]
    """Published shape of one part, as in `Reshape`."""

    def to_ours(self, published: Tensors, shapes: Sequence[tuple[int, ...]]) -> Tensors:
        import torch

        return [torch.cat(published).reshape(shapes[0])]

    def to_published(self, ours: Tensors) -> Tensors:
        parts = ours[0].chunk(len(self.published))
        return [part.reshape(_published_shape(self.shape, part.shape)) for part in parts]


@dataclass(frozen=True)
class Fuse(Rule):
    """One published matrix holds the rows of several of ours: for each group (a head), some rows of each."""

    groups: str | int = 1
    """How many groups, or the config field that says it (e.g. "num_heads"). 1: one block after another."""

    def bind(self, module: Config) -> Rule:
        return replace(self, groups=getattr(module, self.groups)) if isinstance(self.groups, str) else self

    @property
    def num_groups(self) -> int:
        """Of a bound rule."""
        if isinstance(self.groups, str):
            raise TypeError(f"{self.published} must be bound to a module first: it has {self.groups} groups")
        return self.groups

    def to_ours(self, published: Tensors, shapes: Sequence[tuple[int, ...]]) -> Tensors:
        inner = shapes[0][-1]
        rows = [prod(shape) // inner // self.num_groups for shape in shapes]
        parts = published[0].reshape(self.num_groups, sum(rows), inner).split(rows, dim=1)
        return [part.reshape(shape) for part, shape in zip(parts, shapes)]

    def to_published(self, ours: Tensors) -> Tensors:
        inner = ours[0].shape[-1]
        parts = [tensor.reshape(self.num_groups, -1, inner) for tensor in ours]
        rows = [part.shape[1] for part in parts]
        whole = ours[0].new_empty(self.num_groups, sum(rows), inner)
        # Not torch.cat: on the meta device, where shapes come from, its first call imports a symbolic algebra system.
        for place, part in zip(whole.split(rows, dim=1), parts):
            place.copy_(part)
        return [whole.reshape(-1, inner)]

    def layouts(self, shapes: Sequence[tuple[int, ...]]) -> list[BlockLayout] | None:
        is_whole = all(
            len(shape) == 2 and shape[0] % self.num_groups == 0 and starts_block(shape[0] // self.num_groups)
            for shape in shapes
        )
        return [BlockLayout(tuple(shape)) for shape in shapes] if is_whole else None


@dataclass(frozen=True)
class FuseShards(Fuse):
    """`Fuse` where each group is a tensor-parallel shard that was cut into FP8 blocks on its own.

    A shard's last block may be smaller, and two of ours may share a block: both then keep its scales.
    """

    def published_layout(self, published: tuple[int, ...]) -> BlockLayout:
        return BlockLayout(published, Shard(published[0] // self.num_groups))

    def layouts(self, shapes: Sequence[tuple[int, ...]]) -> list[BlockLayout] | None:
        if any(len(shape) != 2 for shape in shapes):
            return None
        shards = [shard for shard, _ in self._within_a_shard(shapes)]
        return [BlockLayout(tuple(shape), shard) for shape, shard in zip(shapes, shards)]

    def _within_a_shard(self, shapes: Sequence[tuple[int, ...]]) -> list[tuple[Shard, slice]]:
        """For each of ours: its rows within one shard, and their rows of scales."""
        found, first = [], 0
        whole = BlockLayout((sum(shape[0] for shape in shapes) // self.num_groups, shapes[0][1]))
        for shape in shapes:
            last = first + shape[0] // self.num_groups
            layout, scales = whole.rows(first, last)
            found.append((layout.shard or Shard(last - first), scales))
            first = last
        return found

    def scales_to_ours(self, scales: Tensors, shapes: Sequence[tuple[int, ...]]) -> Tensors:
        whole = scales[0].reshape(self.num_groups, -1, scales[0].shape[-1])
        return [whole[:, blocks].reshape(-1, whole.shape[-1]) for _, blocks in self._within_a_shard(shapes)]

    def scales_to_published(self, scales: Tensors, shapes: Sequence[tuple[int, ...]]) -> Tensors:
        blocks = [blocks for _, blocks in self._within_a_shard(shapes)]
        whole = scales[0].new_empty(self.num_groups, blocks[-1].stop, scales[0].shape[-1])
        for place, part in zip(blocks, scales):
            whole[:, place] = part.reshape(self.num_groups, -1, part.shape[-1])
        return [whole.reshape(-1, whole.shape[-1])]


@dataclass(frozen=True)
class Stack(Rule):
    """One published tensor per expert; `{}` in the published name is its number."""

    count: str | int = "num_experts"

    def bind(self, module: Config) -> Rule:
        count = getattr(module, self.count) if isinstance(self.count, str) else self.count
        names = tuple(self.published[0].format(number) for number in range(count))
        return replace(self, published=names, count=count)

    def to_ours(self, published: Tensors, shapes: Sequence[tuple[int, ...]]) -> Tensors:
        import torch

        return [torch.stack(published)]

    def to_published(self, ours: Tensors) -> Tensors:
        return list(ours[0].unbind(0))

    def layouts(self, shapes: Sequence[tuple[int, ...]]) -> list[BlockLayout] | None:
        return [BlockLayout(tuple(shape)) for shape in shapes]


@dataclass(frozen=True)
class FuseExperts(Rule):
    """One published [E, rows, D] holds several of ours, [E, rows_i, D] each, one after another within an expert."""

    def to_ours(self, published: Tensors, shapes: Sequence[tuple[int, ...]]) -> Tensors:
        return list(published[0].split([shape[1] for shape in shapes], dim=1))

    def to_published(self, ours: Tensors) -> Tensors:
        num_experts, _, inner = ours[0].shape
        sizes = [tensor.shape[1] for tensor in ours]
        whole = ours[0].new_empty(num_experts, sum(sizes), inner)
        for place, part in zip(whole.split(sizes, dim=1), ours):  # not torch.cat: see Fuse
            place.copy_(part)
        return [whole]


def _published_shape(template: tuple[int, ...], shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(shape[place] if size == 0 else size for place, size in enumerate(template))


def rename(published: str, ours: str) -> Rule:
    """The same tensor under another name."""
    return Rule((published,), (ours,))


def reshape(published: str, ours: str, shape: tuple[int, ...]) -> Rule:
    """The same numbers in the published `shape`."""
    return Reshape((published,), (ours,), shape)


def concat(published: Iterable[str], ours: str, shape: tuple[int, ...]) -> Rule:
    """Our tensor is the concatenation of several published ones, each of `shape`."""
    return Concat(tuple(published), (ours,), shape)


def fuse(published: str, ours: Iterable[str], groups: str | int = 1) -> Rule:
    """The published matrix holds several of ours, interleaved by group."""
    return Fuse((published,), tuple(ours), groups)


def fuse_shards(published: str, ours: Iterable[str], shards: int) -> Rule:
    """The published matrix is a row of tensor-parallel shards, each with its rows of several of ours."""
    return FuseShards((published,), tuple(ours), shards)


def stack(published: str, ours: str) -> Rule:
    """Our tensor stacks the experts' published ones."""
    return Stack((published,), (ours,))


def fuse_experts(published: str, *ours: str) -> Rule:
    """The published tensor of all experts holds several of ours."""
    return FuseExperts((published,), ours)


def weights(published: str, *pairs: str, ours: str = "") -> tuple[Rule, ...]:
    """Renames of weights that share a prefix: each pair is "theirs ours", both followed by `.weight`."""
    split = [pair.split() for pair in pairs]
    return tuple(rename(f"{published}{theirs}.weight", f"{ours}{own}.weight") for theirs, own in split)


def biases(published: str, *pairs: str) -> tuple[Rule, ...]:
    """Renames of biases, as `weights`; a rule whose tensors a model lacks is left out."""
    return tuple(rename(f"{published}{theirs}.bias", f"{own}.bias") for theirs, own in map(str.split, pairs))


SWIGLU = ("gate_proj gate", "up_proj up", "down_proj down")
"""The usual names of a SwiGLU block."""

TRUNK = (*weights("model.", "embed_tokens embed", "norm norm"), *weights("", "lm_head head"))
"""The usual names outside the layers."""
