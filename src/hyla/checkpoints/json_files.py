"""The JSON files of a checkpoint folder, with errors that name the file."""

from __future__ import annotations

import json
from pathlib import Path

from hyla.errors import CheckpointError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


def read_json(file: Path) -> dict:
    """The object in a JSON file."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{file.parent} has no {file.name}; give a folder in the Hugging Face format") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"{file} is not valid JSON: {error}; fetch or save it again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} holds a JSON {type(value).__name__}; it must be an object")
    return value


def write_json(file: Path, value: dict) -> None:
    """An object as an indented JSON file."""
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def shard_names(folder: Path) -> list[str]:
    """The safetensors files that the index lists."""
    weight_map = read_json(folder / INDEX_FILE).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{folder / INDEX_FILE} has no weight_map from tensor to file; fetch it again")
    names = sorted(set(weight_map.values()))
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise CheckpointError(f"{folder / INDEX_FILE} names files outside its folder: {outside[:3]}; refused")
    return names
