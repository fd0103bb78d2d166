"""What is costed: a published size by name, or a folder with a config.json."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hyla.errors import ConfigError
from hyla.models.config import ModelConfig
from hyla.models.formats.presets import find_preset
from hyla.models.formats.registry import read_published

CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class Target:
    """A model to cost, with the name that its figures carry."""

    name: str
    config: ModelConfig


def find_target(name: str) -> Target:
    """A folder where there is one of that name, else a preset. No weight is read.

    Raises ConfigError for an unknown name (with the closest ones), and CheckpointError for a folder whose config.json
    is missing, does not parse or is of an unknown family.
    """
    path = Path(name)
    if path.is_dir():
        return Target(path.absolute().name, read_published(path / CONFIG_FILE)[1])
    if path.exists():
        raise ConfigError(f"{name} is a file; give a folder with a {CONFIG_FILE}, a recipe (.toml) or a preset")
    preset, family = find_preset(name)
    return Target(preset, family.preset(preset))
