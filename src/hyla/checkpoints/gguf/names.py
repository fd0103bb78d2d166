"""From stored tensors to published ones: rules as data, and their account. Needs no PyTorch.

A table maps the name of a stored tensor within its block to a rule; a rule says which published tensor it becomes (or
which ones: a stack of experts is one for each) and what the writer did to the numbers, undone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path

import numpy as np

from hyla.checkpoints.gguf.file import TensorInfo
from hyla.errors import CheckpointError

MAX_EXPERTS = 16384
"""Each gets an entry of its own before any number is looked at; families allow no more."""

Shape = tuple[int, ...]
Undo = Callable[..., np.ndarray]
Tensors = Mapping[str, TensorInfo]


@dataclass(frozen=True)
class Slice:
    """Some of a stored tensor's rows, or all of them."""

    info: TensorInfo
    first: int
    last: int
    shape: Shape
    scale: TensorInfo | None = None
    """What multiplies the numbers as well: one factor, or one for each entry of the first dimension (an expert)."""

    @property
    def nbytes(self) -> int:
        return (self.last - self.first) * self.info.row_bytes


@dataclass(frozen=True)
class Published:
    """One published tensor: from which stored numbers, and how. undo: None where only the shape may differ."""

    shape: Shape
    slices: tuple[Slice, ...]
    undo: Undo | None = None


@dataclass(frozen=True)
class Rule:
    """One stored tensor (and `others`) -> one published."""

    published: str
    undo: Undo | None = None
    others: tuple[str, ...] = ()
    """Further stored tensors of the same block, which `undo` is given after the first."""
    shape: Callable[..., Shape] | None = None
    """(stored shapes, one after another) -> the published one; None: the first's."""

    def below(self, prefix: str) -> Rule:
        """With a longer published name."""
        return replace(self, published=prefix + self.published)

    def make(self, prefix: str, infos: list[TensorInfo]) -> Iterator[tuple[str, Published]]:
        """(published name, what makes it), one or several."""
        shape = self.shape(*(info.shape for info in infos)) if self.shape else infos[0].shape
        yield prefix + self.published, Published(shape, tuple(map(_whole, infos)), self.undo)


@dataclass(frozen=True)
class Experts(Rule):
    """A stored stack [E, ...] -> E published tensors; `{}` in their name is the number."""

    def make(self, prefix: str, infos: list[TensorInfo]) -> Iterator[tuple[str, Published]]:
        info = infos[0]
        count, shape = info.shape[0], info.shape[1:]
        if count > MAX_EXPERTS:
            raise ValueError(f"{count:,} experts")
        rows = prod(shape[:-1])
        for expert in range(count):
            part = Slice(info, expert * rows, (expert + 1) * rows, shape)
            yield prefix + self.published.format(expert), Published(shape, (part,), self.undo)


@dataclass(frozen=True)
class Rows:
    """One stored matrix -> several published ones: `sizes` of its rows each."""

    published: tuple[str, ...]
    sizes: tuple[int, ...]
    others: tuple[str, ...] = ()

    def make(self, prefix: str, infos: list[TensorInfo]) -> Iterator[tuple[str, Published]]:
        """(published name, what makes it), one after another."""
        info, first = infos[0], 0
        if sum(self.sizes) != info.shape[0]:
            raise CheckpointError(
                f"{info.file}: tensor {info.name} has {info.shape[0]:,} rows, not {sum(self.sizes):,}"
            )
        for name, size in zip(self.published, self.sizes):
            shape = (size, *info.shape[1:])
            yield prefix + name, Published(shape, (Slice(info, first, first + size, shape),))
            first += size


def _whole(info: TensorInfo) -> Slice:
    return Slice(info, 0, prod(info.shape[:-1]), info.shape)


def renames(*pairs: str, suffix: str = ".weight") -> dict[str, Rule]:
    """The same tensors under other names: each pair is "stored published", both followed by the suffix."""
    split = [pair.split() for pair in pairs]
    return {stored + suffix: Rule(published + suffix) for stored, published in split}


@dataclass(frozen=True)
class Block:
    """The rules of one stored block `blk.N.`; published names start with `prefix`."""

    prefix: str
    rules: Mapping[str, Rule | Rows]


@dataclass(frozen=True)
class Names:
    """The rules of a whole file."""

    trunk: Mapping[str, Rule]
    blocks: tuple[Block, ...]
    ignored: Mapping[str, str] = field(default_factory=dict)
    """Stored tensors (full names) that the model does not need, and why."""

    def publish(self, path: Path, tensors: Tensors) -> dict[str, Published]:
        """Every published tensor. Raises CheckpointError for a stored one that no rule reads."""
        made: dict[str, Published] = {}
        used = set(self.ignored)
        places = [("", Block("", self.trunk))]
        places += [(f"blk.{number}.", block) for number, block in enumerate(self.blocks)]
        for stored_prefix, block in places:
            for stored, rule in block.rules.items():
                wanted = [stored_prefix + name for name in (stored, *rule.others)]
                if not all(name in tensors for name in wanted):
                    continue
                used.update(wanted)
                for name, found in _made(path, rule, block.prefix, [tensors[name] for name in wanted]):
                    if name in made:
                        raise CheckpointError(f"{path}: {wanted[0]} and another tensor make {name}; convert it again")
                    made[name] = _scaled(found, tensors)
        _check_all_used(path, tensors, used | _beside(used, tensors))
        return made


def _scaled(made: Published, tensors: Tensors) -> Published:
    """With the scales that some writers (of NVFP4) put beside a tensor: X.scale beside X.weight."""
    scales = [tensors.get(part.info.name.removesuffix(".weight") + ".scale") for part in made.slices]
    if not any(scales):
        return made
    return replace(made, slices=tuple(replace(part, scale=scale) for part, scale in zip(made.slices, scales)))


def _beside(used: Iterable[str], tensors: Tensors) -> set[str]:
    """Scales of tensors that are used. Those of activations (.input_scale) are not needed: these are not quantised."""
    stems = [name.removesuffix(".weight") for name in used if name.endswith(".weight")]
    return {stem + kind for stem in stems for kind in (".scale", ".input_scale")} & tensors.keys()


def _made(path: Path, rule: Rule | Rows, prefix: str, infos: list[TensorInfo]) -> list[tuple[str, Published]]:
    """What a rule makes of tensors whose number of dimensions nobody has checked."""
    try:
        return list(rule.make(prefix, infos))
    except (IndexError, ValueError) as error:
        said = ", ".join(f"{info.name} {info.shape}" for info in infos)
        raise CheckpointError(f"{path}: tensors of an impossible shape: {said}; convert the model again") from error


def _check_all_used(path: Path, tensors: Tensors, used: Iterable[str]) -> None:
    left = sorted(tensors.keys() - set(used))
    if left:
        more = ", ..." if len(left) > 4 else ""
        raise CheckpointError(
            f"{path}: {len(left)} tensors have no place in this architecture: {', '.join(left[:4])}{more}; "
            "this file holds more than the model that Hyla knows"
        )
