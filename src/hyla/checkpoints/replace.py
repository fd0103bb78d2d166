"""New weights into a model that is in use, in place: names and shapes first, then one rule's tensors at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import torch

from hyla.checkpoints.files import ShardReader
from hyla.checkpoints.hub import resolve
from hyla.checkpoints.load import _check, _drop_tied_head, _published_names, _shapes, _without_absent_mtp, read_config
from hyla.checkpoints.quantised import CODE_DTYPE, SUFFIX, check_scales, place_rule
from hyla.errors import CheckpointError
from hyla.models.config import ModelConfig
from hyla.models.formats.names import Rule
from hyla.models.formats.registry import family_of
from hyla.models.trunk import Model
from hyla.models.weights import Weights
from hyla.ops.quant import dequantise, num_blocks

Source = str | Path | Mapping[str, torch.Tensor]

DTYPE_NAMES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float64: "F64",
    torch.float16: "F16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e8m0fnu: "F8_E8M0",
}
"""safetensors' spellings."""


class TensorReader:
    """Named tensors in memory, read like the shards of a folder."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]):
        self._tensors = dict(tensors)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def dtype(self, name: str) -> str:
        dtype = self._tensors[name].dtype
        return DTYPE_NAMES.get(dtype, str(dtype))

    def tensor(self, name: str) -> torch.Tensor:
        return self._tensors[name].detach()


class WeightUpdate:
    """A checked replacement of a model's weights; a context manager, because it holds files open.

    source: a folder (or hub name), whose config.json must describe this model and which must have every tensor; or one
    safetensors file or a dict of tensors, under published names, which may be a part of the model.
    device: where the weights go. pack: whether the model computes with packed weights. whole: a part is not enough.
    Each weight keeps the dtype that it has. Raises CheckpointError when anything is missing, extra, or of another shape
    or dtype; nothing has changed then.
    """

    def __init__(self, model: Model, source: Source, *, device: torch.device, pack: bool, whole: bool = False):
        self.model, self.device, self.pack = model, device, pack
        self.weights = Weights(model)
        self._dtypes = {name: _dtype_of(model, name) for name in self.weights.shapes}
        self._stack = ExitStack()
        try:
            self._open(source, whole)
        except BaseException:
            self._stack.close()
            raise

    def _open(self, source: Source, whole: bool) -> None:
        config, family = self.model.config, family_of(self.model.config.family)
        is_folder = not isinstance(source, Mapping) and not Path(source).is_file()
        place = "the given tensors" if isinstance(source, Mapping) else source
        if is_folder:
            source = place = resolve(source)
            found = read_config(source)
        self._shards = (
            TensorReader(source)
            if isinstance(source, Mapping)
            else self._stack.enter_context(ShardReader(Path(source)))
        )
        self._names = _published_names(self._shards, family, config)
        if is_folder:
            _check_same_model(source, config, _without_absent_mtp(source, found, self._names))
        if config.tie_embeddings:
            _drop_tied_head(self._shards, self._names, family)
        rules = family.as_stored(config, self._names).rules(config, self.weights.shapes)
        if not (is_folder or whole):
            rules = [rule for rule in rules if any(name in self._names for name in rule.published)]
            if not rules:
                raise CheckpointError(f"there is no tensor of this model in {place}; give published names")
        self.rules = rules
        self._check(place)

    def _check(self, place) -> None:
        expected = {name: shape for r in self.rules for name, shape in zip(r.published, _shapes(r, self.weights))}
        scaled = [
            name
            for name, shape in expected.items()
            if name in self._names and len(shape) == 2 and self._shards.dtype(self._names[name]) == CODE_DTYPE
        ]
        expected |= {name + SUFFIX: num_blocks(expected[name]) for name in scaled}
        _check(place, expected, self._names, self._shards)
        for name in scaled:
            check_scales(name + SUFFIX, self._read(name + SUFFIX))

    def __enter__(self) -> WeightUpdate:
        return self

    def __exit__(self, *_):
        self._stack.close()

    def _read(self, name: str) -> torch.Tensor:
        return self._shards.tensor(self._names[name])

    @torch.no_grad()
    def apply(self) -> None:
        """Replace the weights. Memory: one projection's weights at a time, in plain and packed form."""
        keep = self.model.dtype if self.model.quantization is not None else None
        packing = _Packing(self.model, self.rules) if self.pack else None
        for rule in self.rules:
            if packing is not None:
                packing.before(rule)
            self._place(rule, keep)
            if packing is not None:
                packing.after(rule)
        if self.model.quantization is not None and not any(map(self.weights.quantised, self.weights.shapes)):
            self.model.quantization = None

    def _place(self, rule: Rule, keep: torch.dtype | None) -> None:
        has_scales = [name + SUFFIX in self._names for name in rule.published]
        for name in rule.published:
            self.model.published_scales.pop(name, None)
        if all(has_scales):
            ours = place_rule(rule, self._read, self.model, self.weights, keep=keep, device=str(self.device))
        else:
            published = [
                dequantise(self._read(name), self._read(name + SUFFIX), torch.float32) if scaled else self._read(name)
                for name, scaled in zip(rule.published, has_scales)
            ]
            ours = rule.to_ours(published, [self.weights.shapes[name] for name in rule.ours])
        for name, tensor in zip(rule.ours, ours or ()):
            new = tensor.to(device=self.device, dtype=self._dtypes[name], copy=True).contiguous()
            self.weights.assign(name, new)
            if not any(has_scales):
                self.model.stored_dtypes[name] = tensor.dtype


class _Packing:
    """Unpacks what a rule is about to replace, and packs each projection after its last rule."""

    def __init__(self, model: Model, rules: Iterable[Rule]):
        self._model = model
        self._projections = projections_by_name(model)
        self._left = Counter(projection for rule in rules for projection in self._of(rule))

    def _of(self, rule: Rule) -> set:
        return {projection for name in rule.ours for projection in self._projections.get(name, ())}

    def before(self, rule: Rule) -> None:
        for projection in self._of(rule):
            projection.unpack()

    def after(self, rule: Rule) -> None:
        for projection in self._of(rule):
            self._left[projection] -= 1
            if not self._left[projection]:
                is_head = projection is self._model.head.projection
                projection.pack(keep_plain=is_head and self._model.config.tie_embeddings)


def projections_by_name(model: Model) -> dict[str, list]:
    """The packable projections that compute with each named weight."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[str, list] = {}
    for projection in model.projections():
        for parameter in projection.parameters():
            found.setdefault(names[id(parameter)], []).append(projection)
    return found


@torch.no_grad()
def release_weights(model: Model) -> None:
    """Free the memory of all weights, packed or not; shapes and dtypes stay. Only a whole `WeightUpdate` helps then."""
    by_name = projections_by_name(model)
    weights = Weights(model)
    for name, shape in weights.shapes.items():
        dtype = _dtype_of(model, name)
        for projection in by_name.get(name, ()):
            projection.unpack()
        weights.assign(name, torch.empty(shape, dtype=dtype, device="meta"))


def _dtype_of(model: Model, name: str) -> torch.dtype:
    """The dtype that a weight has, or, while it is packed or FP8, stands for."""
    path, _, leaf = name.rpartition(".")
    return getattr(model.get_submodule(path), leaf).dtype


def _check_same_model(place, ours: ModelConfig, theirs: ModelConfig) -> None:
    """Raise CheckpointError unless a config describes the model; its special tokens may differ."""
    ids = ("bos_token_id", "eos_token_ids", "pad_token_id")
    theirs = theirs.model_copy(update={name: getattr(ours, name) for name in ids})
    if theirs != ours:
        names = [name for name in type(ours).model_fields if getattr(ours, name) != getattr(theirs, name)]
        raise CheckpointError(f"{place} describes another model: {names} differ; nothing was changed")
