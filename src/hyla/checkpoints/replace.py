"""New weights into a model that is in use, in place: names and shapes first, then one rule's tensors at a time."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import torch

from hyla.checkpoints.files import ShardReader, TensorReader
from hyla.checkpoints.gguf.checkpoint import is_gguf
from hyla.checkpoints.hub import resolve
from hyla.checkpoints.opening import open_checkpoint
from hyla.checkpoints.packing import Packing
from hyla.checkpoints.placement import Placer, Plan, drop_tied_head, plan, published_names, without_absent_mtp
from hyla.errors import CheckpointError
from hyla.models.config import ModelConfig
from hyla.models.formats.registry import family_of
from hyla.models.state import NamedWeights
from hyla.models.trunk import Model

Source = str | Path | Mapping[str, torch.Tensor]


class WeightUpdate:
    """A checked replacement of a model's weights; a context manager, because it holds files open.

    source: a folder (or hub name) or GGUF file, which must describe this model and have every tensor; or one
    safetensors file or a dict of tensors, under published names, which may be a part of the model.
    device: where the weights go. pack: whether the model computes with packed weights. whole: a part is not enough.
    Each weight keeps the dtype that it has. Raises CheckpointError when anything is missing, extra, or of another shape
    or dtype; nothing has changed then.
    """

    def __init__(self, model: Model, source: Source, *, device: torch.device, pack: bool, whole: bool = False):
        self.model, self.device, self.pack = model, device, pack
        self.weights = NamedWeights(model)
        self._dtypes = {name: self.weights.held_dtype(name) for name in self.weights.shapes}
        self._stack = ExitStack()
        try:
            self._plan = self._open(source, whole)
        except BaseException:
            self._stack.close()
            raise

    def _open(self, source: Source, whole: bool) -> Plan:
        config, family = self.model.config, family_of(self.model.config.family)
        found = None
        if isinstance(source, Mapping):
            place, reader = "the given tensors", TensorReader(source)
        else:
            place = Path(source) if Path(source).is_file() else resolve(source)
            is_part = place.is_file() and not is_gguf(place)
            checkpoint = None if is_part else open_checkpoint(place)
            found = None if checkpoint is None else checkpoint.config()
            opened = ShardReader(place) if checkpoint is None else checkpoint.tensors(self.model.dtype)
            reader = self._stack.enter_context(opened)
        names = published_names(place, reader, family, config)
        if found is not None:
            _check_same_model(place, config, without_absent_mtp(place, found.family, found.config, names))
        if config.tie_embeddings:
            drop_tied_head(reader, names, family)
        rules = family.rules_of_stored(config, self.weights.shapes, names)
        if not whole and found is None:
            rules = [rule for rule in rules if any(name in names for name in rule.published)]
            if not rules:
                raise CheckpointError(f"there is no tensor of this model in {place}; give published names")
        may_be_fp8 = found is None or found.quantization is not None
        return plan(place, reader, names, rules, self.weights, may_be_fp8=may_be_fp8)

    def __enter__(self) -> WeightUpdate:
        return self

    def __exit__(self, *_):
        self._stack.close()

    @torch.no_grad()
    def apply(self) -> None:
        """Replace the weights. Memory: one projection's weights at a time, in plain and packed form."""
        keep = self.model.dtype if self.model.quantization is not None else None
        packing = Packing(self.weights, self._plan.rules) if self.pack else None
        placer = Placer(
            self.weights,
            self._plan,
            lambda name, _: self._dtypes[name],
            self.device,
            keep_fp8=keep,
            packing=packing,
        )
        for rule in self._plan.rules:
            placer.place(rule)
        if self.model.quantization is not None and not any(map(self.weights.fp8, self.weights.shapes)):
            self.model.quantization = None


@torch.no_grad()
def release_weights(model: Model) -> None:
    """Free the memory of all weights, packed or not; shapes and dtypes stay. Only a whole `WeightUpdate` helps then."""
    weights = NamedWeights(model)
    for name, shape in weights.shapes.items():
        dtype = weights.held_dtype(name)
        for projection, _ in weights.projections.get(name, ()):
            projection.unpack()
        weights.assign(name, torch.empty(shape, dtype=dtype, device="meta"))


def _check_same_model(place, ours: ModelConfig, theirs: ModelConfig) -> None:
    """Raise CheckpointError unless a config describes the model; its special tokens may differ."""
    ids = ("bos_token_id", "eos_token_ids", "pad_token_id")
    theirs = theirs.model_copy(update={name: getattr(ours, name) for name in ids})
    if theirs != ours:
        names = [name for name in type(ours).model_fields if getattr(ours, name) != getattr(theirs, name)]
        raise CheckpointError(f"{place} describes another model: {names} differ; nothing was changed")
