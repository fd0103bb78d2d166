"""What every run's folder has in common, whatever it trains: asked for once, then only continued."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from hyla.adapters import Adapters, merge, save_adapter
from hyla.checkpoints import Tokenizer, save_model
from hyla.errors import ConfigError
from hyla.models.config import Config
from hyla.models.trunk import Model
from hyla.train.model_source import trained_digest

RUN_FILE = "run.json"


def is_begun(folder: Path) -> bool:
    """Whether a folder holds a run. Raises ConfigError for one that holds other files: nothing is prepared there."""
    if (folder / RUN_FILE).is_file():
        return True
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is not empty and holds no run; choose another --out")
    return False


def differs(folder: Path, recorded: Config, requested: Config) -> ConfigError:
    """The error that names the first key of two requests that differs, with both values."""
    old, new = _flat(recorded.model_dump()), _flat(requested.model_dump())
    key = next((key for key in [*old, *new] if old.get(key) != new.get(key)), "minutes")
    return ConfigError(
        f"{folder} holds a run with {key} = {old.get(key)}, not {new.get(key)}; choose another --out, or delete that "
        "folder"
    )


def _flat(nested: dict, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in nested.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return flat


def check_start(folder: Path, name: str, began: str) -> None:
    """Raise ConfigError where the trained model that a run began with has other weights now. began: its digest then."""
    if trained_digest(name) != began:
        raise ConfigError(
            f"{name}, with which the run in {folder} began, has other weights now; put the old ones back, or choose "
            "another --out"
        )


def keep_adapter(adapters: Adapters, folder: Path, base: str | None, tokenizer: Tokenizer) -> None:
    """Write an adapter's folder, and make its terms a part of the model. base: what it was trained beside."""
    save_adapter(adapters, folder, base=base, tokenizer=tokenizer)
    merge(adapters)


def keep_model(model: Model, folder: Path, tokenizer: Tokenizer) -> None:
    """Write a model's folder, and remove what a killed process left of one."""
    for leftover in folder.parent.glob(f".{folder.name}-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    save_model(model, folder, tokenizer=tokenizer)
