"""Published checkpoint -> model. Tensors stream from memory-mapped files into place, one rule at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from hyla.checkpoints.hub import resolve
from hyla.checkpoints.opening import open_checkpoint
from hyla.checkpoints.packing import Packing
from hyla.checkpoints.placement import (
    DTYPES,
    DtypeRule,
    Edit,
    Placer,
    Plan,
    drop_tied_head,
    plan,
    published_names,
    without_absent_mtp,
)
from hyla.errors import CheckpointError, ConfigError
from hyla.models.config import ModelConfig
from hyla.models.state import NamedWeights
from hyla.models.trunk import Model
from hyla.ops.devices import resolve_device, says_what_to_lower

Progress = Callable[[int, int], None]
"""(bytes done, bytes in all)."""

SMALLER_WEIGHTS = "free memory there, choose a smaller dtype or model, or another device"


def load_model(
    folder: str | Path,
    dtype: torch.dtype | str | None = None,
    device: str | torch.device = "cpu",
    *,
    revision: str | None = None,
    pack: bool = False,
    progress: Progress | None = None,
    edits: Mapping[str, Edit] | None = None,
) -> Model:
    """Load a model in the Hugging Face format or from a GGUF file. Nothing is unpickled and no code is run.

    folder: a folder, a GGUF file (of several parts, the first), or a name "org/name" on the Hugging Face hub.
    revision: of a name, its branch, tag or commit.
    dtype: of weights and activations, e.g. torch.bfloat16 or "bfloat16"; None: the one in which the checkpoint stores
    the embedding (vectors that it stores wider stay so); of a GGUF file bfloat16, unless all of it is F32. What a
    model keeps in fp32 (`models.parameters`) is fp32 either way.
    FP8 weights in blocks stay FP8 and are dequantised as they are used; with a dtype, once, here: the same bits. Other
    quantised weights (`checkpoints.quantised`) are dequantised here in any case.
    device: as PyTorch names it.
    pack: for inference, as by `Model.pack`; weights go from the file straight into the layout of the products.
    edits: by our name of a weight, what is made of its numbers as they are stored, before they get their dtype: how an
    adapter is merged (`hyla.adapters.load_adapted`). FP8 weights with an edit are dequantised.
    progress: called with (bytes placed, bytes of the checkpoint) as tensors come in.
    Memory: the model plus one rule's tensors, or one packed product's. Ignored tensors are logged with the reason.
    Raises CheckpointError for missing, extra, damaged or misshapen tensors, ConfigError for what config.json asks
    and for a device that is not there, CapacityError when the device has too little memory.
    """
    place = resolve_device(device)
    folder = resolve(folder, revision)
    requested = None if dtype is None else _computable(dtype)
    checkpoint = open_checkpoint(folder)
    found = checkpoint.config()
    with checkpoint.tensors(requested) as shards:
        names = published_names(folder, shards, found.family, found.config)
        config = without_absent_mtp(folder, found.family, found.config, names)
        model = build_on_meta(config)
        weights = NamedWeights(model)
        rules = found.family.rules_of_stored(config, weights.shapes, names)
        if config.tie_embeddings:
            drop_tied_head(shards, names, found.family)
        checked = plan(folder, shards, names, rules, weights, may_be_fp8=found.quantization is not None)
        dtype = requested or _model_dtype(folder, checked)
        # float64 is an oracle's dtype: dequantised, since no product promises anything there.
        keep = None if requested or dtype == torch.float64 else dtype
        dtype_of = _dtypes_on_loading(weights, dtype, may_widen=requested is None)
        packing = Packing(weights, checked.rules) if pack else None
        placer = Placer(weights, checked, dtype_of, place, keep_fp8=keep, packing=packing, edits=edits or {})
        total, done = sum(shards.nbytes(name) for name in names.values()), 0
        with says_what_to_lower(place, f"the weights of {folder}, {total:,} bytes as stored", SMALLER_WEIGHTS):
            for rule in checked.rules:
                placer.place(rule)
                done += sum(map(shards.nbytes, checked.stored(rule)))
                if progress is not None:
                    progress(done, total)
    if keep is not None:
        model.quantization = found.quantization
    return model


def _dtypes_on_loading(weights: NamedWeights, dtype: torch.dtype, *, may_widen: bool) -> DtypeRule:
    """What a model of `dtype` has where. may_widen: vectors that are stored wider stay so."""

    def dtype_of(name: str, tensor: torch.Tensor) -> torch.dtype:
        target = weights.dtype(name, dtype)
        return torch.promote_types(target, tensor.dtype) if may_widen and tensor.dim() == 1 else target

    return dtype_of


def _computable(dtype: torch.dtype | str) -> torch.dtype:
    """A dtype that a model can compute in, by itself or by name."""
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if found is None or found not in DTYPES.values():
        raise ConfigError(f"dtype = {dtype!r} is not one that Hyla computes in; choose bfloat16, float32 or float64")
    return found


def build_on_meta(config: ModelConfig) -> Model:
    """The model without memory for its weights. Raises ConfigError for sizes that no tensor can have."""
    try:
        with torch.device("meta"):
            return Model(config)
    except RuntimeError as error:  # sizes that even a shape without memory cannot have
        reason = str(error).splitlines()[0]
        raise ConfigError(f"config.json asks for impossible sizes: {reason}; fetch it again") from error


def _model_dtype(folder: Path, checked: Plan) -> torch.dtype:
    """The dtype of the embedding."""
    embedding = next(rule.published[0] for rule in checked.rules if rule.ours == ("embed.weight",))
    stored = checked.source.dtype(checked.names[embedding])
    if stored not in DTYPES:
        raise CheckpointError(
            f"{folder} stores {stored}, in which Hyla does not compute; load it with dtype=torch.bfloat16 or float32"
        )
    return DTYPES[stored]
