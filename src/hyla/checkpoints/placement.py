"""Which published tensors make which of a model's weights, checked; and the one way in which they get there.

Loading a folder, new weights into a model in use and converting all make a `Plan` of a source and place its rules one
by one, so they cannot disagree about names, shapes, scales or dtypes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

import torch

from hyla.checkpoints.files import TensorSource
from hyla.checkpoints.foreign import refuse_foreign_tensors
from hyla.checkpoints.fp8_rules import CODE_DTYPE, SCALE_DTYPES, SUFFIX, check_scales, resident
from hyla.checkpoints.packing import Packing
from hyla.checkpoints.quantised import looks_quantised
from hyla.errors import CheckpointError
from hyla.models.config import ModelConfig
from hyla.models.formats.family import Family, published_shapes
from hyla.models.formats.names import Rule
from hyla.models.state import NamedWeights
from hyla.ops.weights import FP8_BLOCK, dequantise
from hyla.terminal_text import shortened

logger = logging.getLogger("hyla.checkpoints")

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F64": torch.float64}
"""Stored dtypes that a model can compute in."""

Edit = Callable[[torch.Tensor], torch.Tensor]
"""A weight's numbers as they are stored -> others of the same shape, in whatever dtype."""

DtypeRule = Callable[[str, torch.Tensor], torch.dtype]
"""(name of ours, its new numbers) -> the dtype that it gets."""


@dataclass(frozen=True)
class Plan:
    """The rules that place a source's tensors in a model, and where they are there."""

    source: TensorSource
    names: Mapping[str, str]
    """Our spelling of each published name -> the source's."""
    rules: tuple[Rule, ...]

    def read(self, name: str) -> torch.Tensor:
        """A published tensor, in our spelling."""
        return self.source.tensor(self.names[name])

    def stored(self, rule: Rule) -> list[str]:
        """The source's names of what a rule reads, scales included."""
        spelled = (spelling for name in rule.published for spelling in (name, name + SUFFIX))
        return [self.names[name] for name in spelled if name in self.names]


def plan(
    place: object,
    source: TensorSource,
    names: Mapping[str, str],
    rules: Iterable[Rule],
    weights: NamedWeights,
    *,
    may_be_fp8: bool,
) -> Plan:
    """Check that a source has exactly the tensors of some rules, in shapes, dtypes and scales that fit.

    place: for messages, what the source is. may_be_fp8: whether it may hold FP8 matrices with scales.
    Raises CheckpointError, which names the first tensors that do not fit; nothing has been placed then.
    """
    rules, expected, scaled = tuple(rules), {}, {}
    for rule in rules:
        shapes = published_shapes(rule, [weights.shapes[name] for name in rule.ours])
        for name, shape in zip(rule.published, shapes):
            expected[name] = shape
            if may_be_fp8 and len(shape) == 2 and name in names and source.dtype(names[name]) == CODE_DTYPE:
                scaled[name + SUFFIX] = rule.published_layout(shape).scale_shape
    _check(place, expected | scaled, names, source)
    found = Plan(source, names, rules)
    for name in scaled:
        check_scales(name, found.read(name))
    for name in expected:
        source.check_values(names[name])
    return found


def _check(place: object, expected: Mapping[str, tuple[int, ...]], names: Mapping[str, str], source: TensorSource):
    """Raise CheckpointError unless the source holds exactly the expected tensors."""
    problems = {
        "are missing": [name for name in expected if name not in names],
        "are not part of the model": [names[name] for name in names if name not in expected],
        "have another shape": [
            f"{names[name]} {source.shape(names[name])} instead of {shape}"
            for name, shape in expected.items()
            if name in names and source.shape(names[name]) != shape
        ],
        "are stored in a dtype that is not supported": [
            f"{names[name]} {source.dtype(names[name])}"
            for name in expected
            if name in names and source.dtype(names[name]) not in _allowed_dtypes(name, expected)
        ],
    }
    packed = next((name for name in problems["are not part of the model"] if looks_quantised(name)), None)
    hint = f" ({packed} is of a quantised weight, of which nothing is said: quantization_config)" if packed else ""
    for what, items in problems.items():
        if items:
            raise CheckpointError(
                f"{place}: {len(items)} tensors {what}: {_some(items)}; config.json and the safetensors files "
                f"must belong together{hint}"
            )


def _allowed_dtypes(name: str, expected: Mapping) -> tuple[str, ...]:
    """The dtypes that a stored tensor may have: FP8 only beside scales."""
    if name.endswith(SUFFIX):
        return SCALE_DTYPES
    return (CODE_DTYPE,) if name + SUFFIX in expected else (*DTYPES, "F16")


MOST_SHOWN = 1000
"""Characters of the names in an error."""


def _some(items: list[str]) -> str:
    return shortened(", ".join(items[:4]) + (", ..." if len(items) > 4 else ""), MOST_SHOWN)


@dataclass
class Placer:
    """Copies the tensors of a plan into a model, one rule at a time.

    packing: what packs the model's products meanwhile. Weights that go into tiles are then read from the source where
    they are, and copied only on their way there; the source lets go of what was read.
    """

    weights: NamedWeights
    plan: Plan
    dtype_of: DtypeRule
    device: torch.device | str
    keep_fp8: torch.dtype | None
    """The dtype that resident FP8 weights stand for; None: dequantise them."""
    packing: Packing | None = None
    edits: Mapping[str, Edit] = field(default_factory=dict)
    """By our name, what is made of a weight's numbers before they get their dtype: an adapter's terms join them."""
    _unread: list[str] = field(default_factory=list)
    """The source's names of what was placed and may still be read by packing."""

    def place(self, rule: Rule) -> None:
        """Put one rule's tensors where they belong, and pack what is complete. Memory: these tensors once more."""
        if self.packing is not None:
            self.packing.before(rule)
        self._place(rule)
        self._unread += self.plan.stored(rule)
        if self.packing is not None:
            self.packing.after(rule)
        if self.packing is None or self.packing.is_between:
            for name in self._unread:
                self.plan.source.forget(name)
            self._unread.clear()

    def _place(self, rule: Rule) -> None:
        model = self.weights.model
        has_scales = [name + SUFFIX in self.plan.names for name in rule.published]
        for name in rule.published:
            model.published_scales.pop(name, None)
        if all(has_scales) and self._place_fp8(rule):
            return
        published = [
            self._plain(rule, name) if scaled else self.plan.read(name)
            for name, scaled in zip(rule.published, has_scales)
        ]
        for name, tensor in zip(rule.ours, rule.to_ours(published, self._shapes(rule))):
            dtype = self.dtype_of(name, tensor)
            tensor = self.edits[name](tensor) if name in self.edits else tensor
            new = tensor.to(device=self.device, dtype=dtype)
            if self.packing is None or not self.packing.reads(name, new):
                # A copy: the mapped file may be replaced or deleted while the model lives.
                new = (new.clone() if new is tensor else new).contiguous()
            self.weights.assign(name, new)
            if not any(has_scales) and name not in self.edits:
                model.stored_dtypes[name] = tensor.dtype

    def _shapes(self, rule: Rule) -> list[tuple[int, ...]]:
        return [self.weights.shapes[name] for name in rule.ours]

    def _place_fp8(self, rule: Rule) -> bool:
        """Place a rule's FP8 tensors as they are; False where they must be dequantised."""
        if self.keep_fp8 is None:
            return False
        if any(name in self.edits for name in rule.ours):  # its numbers change: they are plain from here on
            return False
        codes = [self.plan.read(name) for name in rule.published]
        scales = [self.plan.read(name + SUFFIX) for name in rule.published]
        if all(map(self.weights.may_be_quantised, rule.ours)):
            found = resident(rule, codes, scales, self._shapes(rule), dtype=self.keep_fp8, device=self.device)
            if found is not None:
                for name, tensor in zip(rule.ours, found):
                    self.weights.assign_fp8(name, tensor)
                return True
        logger.info("%s is dequantised: its rows are split inside blocks of %d", rule.published[0], FP8_BLOCK)
        for name, scale in zip(rule.published, scales):
            self.weights.model.published_scales[name] = scale.clone()
        return False

    def _plain(self, rule: Rule, name: str) -> torch.Tensor:
        """One FP8 tensor, dequantised in the dtype that its numbers get (fp32 where they are dequantised for good)."""
        codes, scale = self.plan.read(name), self.plan.read(name + SUFFIX)
        shard = rule.published_layout(tuple(codes.shape)).shard
        return dequantise(codes, scale, self.keep_fp8 or torch.float32, shard)


def published_names(place: object, source: TensorSource, family: Family, config: ModelConfig) -> dict[str, str]:
    """Our spelling of each tensor's name -> the source's, without the ignored ones (logged with the reason).

    place: for messages, what the source is. Raises CheckpointError for two spellings of one tensor, and for the tensors
    of what is no model (`checkpoints.foreign`).
    """
    refuse_foreign_tensors(place, source, config)
    names, ignored = {}, {}
    spelled = {name: family.canonical(name) for name in source}
    stored = frozenset(spelled.values())
    for name, canonical in spelled.items():
        reason = family.reason_to_ignore(canonical, config, stored)
        if reason is not None:
            ignored.setdefault(reason, []).append(name)
        elif canonical in names:
            raise CheckpointError(
                f"{place}: tensors {names[canonical]} and {name} are two spellings of one; remove one"
            )
        else:
            names[canonical] = name
    for reason, left_out in ignored.items():
        logger.warning("ignored %d tensors (%s, ...): %s", len(left_out), left_out[0], reason)
    return names


def without_absent_mtp(folder: object, family: Family, config: ModelConfig, names: Collection[str]) -> ModelConfig:
    """The config, without the last multi-token prediction modules of which the folder holds no tensor."""
    promised = len(config.mtp)
    while config.mtp:
        fewer = config.model_copy(update={"mtp": config.mtp[:-1]})
        if not (family.mtp_tensors(config) - family.mtp_tensors(fewer)).isdisjoint(names):
            break
        config = fewer
    if len(config.mtp) < promised:
        logger.warning(
            "%s: the config promises multi-token prediction with %d modules, but there are tensors of %d only; "
            "the others are left out",
            folder,
            promised,
            len(config.mtp),
        )
    return config


def drop_tied_head(source: TensorSource, names: dict[str, str], family: Family) -> None:
    """Some writers store a tied head as well: leave it out when it is the embedding, bit for bit."""
    published = {rule.ours[0]: rule.published[0] for rule in family.trunk}
    embedding, head = names.get(published["embed.weight"]), names.pop(published["head.weight"], None)
    if embedding and head and not torch.equal(source.tensor(head), source.tensor(embedding)):
        raise CheckpointError(f"{head} differs from the embedding, but config.json ties them")
