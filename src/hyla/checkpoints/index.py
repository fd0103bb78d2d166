"""The index of a checkpoint folder: which safetensors files hold its tensors."""

from __future__ import annotations

from os.path import lexists
from pathlib import Path

from hyla.errors import CheckpointError
from hyla.json_files import read_json

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MOST_BYTES = 128 << 20
"""Of an index: the largest published model has 140,000 tensors, which take 15 MB."""


def has_tensors(folder: Path) -> bool:
    """Whether a model's own files are there, or said to be."""
    return any(lexists(folder / name) for name in (SINGLE_FILE, INDEX_FILE))


def shard_names(folder: Path) -> list[str]:
    """The safetensors files that the index lists."""
    weight_map = read_json(folder / INDEX_FILE, MOST_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{folder / INDEX_FILE} has no weight_map from tensor to file; fetch it again")
    names = sorted(set(weight_map.values()))
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise CheckpointError(f"{folder / INDEX_FILE} names files outside its folder: {outside[:3]}; refused")
    return names
