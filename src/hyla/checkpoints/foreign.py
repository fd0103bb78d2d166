"""Folders of other programs that look like a model's and hold something else, refused by name. Needs no PyTorch.

What they hold: an adapter without its base, or beside it (PEFT); weights whose values or shapes were changed for
another runtime (MLX). Loaded as they stand, either would be another model than the one that its name promises.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from os.path import lexists
from pathlib import Path
from typing import TYPE_CHECKING

from hyla.errors import CheckpointError
from hyla.json_files import read_json
from hyla.models.config import ModelConfig

if TYPE_CHECKING:  # configs are read without PyTorch
    from hyla.checkpoints.files import TensorSource

logger = logging.getLogger("hyla.checkpoints")

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_TENSORS = re.compile(r"\.(lora_[A-Z]|lora_embedding_[A-Z]|lora_magnitude_vector|modules_to_save|ia3_l)\b")
"""What PEFT adds to the layers that it trains."""
MERGE = "merge it into its base first (PEFT: `merge_and_unload()`, then `save_pretrained`)"
MLX_STACK = re.compile(r"\.switch_mlp\.")
"""How MLX calls experts that it has stacked."""
ORIGINAL = "give the model that it was made from: the name of its repository on the hub without MLX and bits"


def refuse_adapter(folder: Path, *, is_alone: bool) -> None:
    """Raise CheckpointError for a folder that is an adapter; log one that lies beside a model, which is not applied.

    is_alone: whether the folder lacks a model's own files.
    """
    file = folder / ADAPTER_CONFIG
    if not lexists(file):
        return
    if not is_alone:
        logger.warning("%s: the adapter in it is not applied; to use it, %s", file, MERGE)
        return
    keys = read_json(file)
    kind, base = (keys.get(key) for key in ("peft_type", "base_model_name_or_path"))
    of = f" of {base}" if isinstance(base, str) and base else ""
    kind = kind if isinstance(kind, str) else "PEFT"
    raise CheckpointError(
        f"{folder} is a {kind} adapter{of}, not a model; {MERGE}, or give it as --adapter of its base"
    )


def refuse_quantised_mlx(place: object, published: Mapping) -> None:
    """Raise CheckpointError for the config.json of an MLX conversion whose weights are quantised."""
    found = published.get("quantization")
    if isinstance(found, Mapping) and {"bits", "group_size"} <= found.keys():
        raise CheckpointError(
            f"{place} is an MLX conversion with weights of {found['bits']} bits (`quantization` in config.json), which "
            f"Hyla does not read; {ORIGINAL}"
        )


def refuse_foreign_tensors(place: object, source: TensorSource, config: ModelConfig) -> None:
    """Raise CheckpointError for the tensors of an adapter, and for those that MLX has changed.

    MLX adds one to the weights of zero-centred norms, turns convolutions around and stacks experts under names of its
    own. A model that has nothing of that is the same after it.
    """
    adapter = next((name for name in source if ADAPTER_TENSORS.search(name)), None)
    if adapter is not None:
        raise CheckpointError(f"{place} holds an adapter that is not merged ({adapter}, ...); {MERGE}")
    sign = next((name for name in source if MLX_STACK.search(name) or _is_turned(source, name)), None)
    is_shifted = source.writer == "mlx" and any(norm.zero_centered for norm in _norms(config))
    if sign is not None or is_shifted:
        why = f"{sign} {source.shape(sign)}" if sign is not None else "its norms are shifted by one"
        raise CheckpointError(f"{place} is an MLX conversion, whose values differ ({why}); {ORIGINAL}")


def _is_turned(source: TensorSource, name: str) -> bool:
    """Whether it is a depthwise convolution [C, L, 1] instead of [C, 1, L]."""
    shape = source.shape(name) if "conv" in name and name.endswith(".weight") else ()
    return len(shape) == 3 and shape[2] == 1 and shape[1] > 1


def _norms(config: ModelConfig) -> Iterable:
    yield config.final_norm
    yield from (sublayer.norm for sublayer in config.sublayers)
