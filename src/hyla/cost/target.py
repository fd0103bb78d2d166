"""What is costed: a published size by name, or a folder with a config.json."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from hyla.errors import ConfigError
from hyla.models.config import ModelConfig
from hyla.models.formats.family import family_of_published
from hyla.models.formats.presets import find_preset

CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class Target:
    """A model to cost, with the name that its figures carry."""

    name: str
    config: ModelConfig


def find_target(name: str) -> Target:
    """A folder where there is one of that name, else a preset. No weight is read.

    Raises ConfigError for an unknown name (with the closest ones) and for a config.json that does not parse, and
    CheckpointError for one of an unknown family.
    """
    path = Path(name)
    if path.is_dir():
        published = _read(path / CONFIG_FILE)
        return Target(path.absolute().name, family_of_published(published).config_from_hf(published))
    if path.exists():
        raise ConfigError(f"{name} is a file; give a folder with a {CONFIG_FILE}, a recipe (.toml) or a preset")
    preset, family = find_preset(name)
    return Target(preset, family.preset(preset))


def _read(file: Path) -> dict:
    try:
        published = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{file.parent} has no {CONFIG_FILE}") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(published, dict):
        raise ConfigError(f"{file} holds a JSON {type(published).__name__}; it must be an object")
    return published
