"""Finding a family: every file of `hyla.models.families` is one, by its name and by what config.json calls it."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from hyla.errors import CheckpointError, ConfigError
from hyla.json_files import read_json
from hyla.models import families as family_files
from hyla.models.config import ModelConfig
from hyla.models.formats.family import Family
from hyla.terminal_text import shortened

MOST_SHOWN = 1000
"""Characters of an error about a file: a value in it may be megabytes."""


@lru_cache(maxsize=1)
def _families() -> dict[str, Family]:
    found = {}
    for entry in pkgutil.iter_modules(family_files.__path__):
        family = importlib.import_module(f"{family_files.__name__}.{entry.name}").FAMILY
        for model_type in (entry.name, family.name, *family.model_types):
            found[model_type] = family
    return found


def families() -> tuple[Family, ...]:
    """Every family, once."""
    return tuple({id(family): family for family in _families().values()}.values())


def known_model_types() -> tuple[str, ...]:
    """Every family and every `model_type` that can be loaded."""
    written = {family.model_type for family in _families().values() if family.model_type}
    return tuple(sorted({*_families(), *written}))


def family_of(model_type: str | None) -> Family:
    """The family of that name or `model_type`. Raises CheckpointError that lists the known ones."""
    family = _families().get(model_type) if isinstance(model_type, str) else None
    if family is None:
        raise CheckpointError(f"unknown model_type {model_type!r} in config.json; Hyla reads {known_model_types()}")
    return family


def read_published(
    file: Path, look: Callable[[Mapping], None] = lambda published: None
) -> tuple[Family, ModelConfig, dict]:
    """What a config.json says: its family, the model and the keys themselves.

    look: is given the keys first, and may raise. Raises CheckpointError or ConfigError, which names the file.
    """
    published = read_json(file)
    look(published)
    with names_file(file):
        family = family_of_published(published)
        return family, family.config_from_hf(published), published


@contextmanager
def names_file(file: Path) -> Iterator[None]:
    """Errors about what a file says begin with its path."""
    try:
        yield
    except (CheckpointError, ConfigError) as error:
        raise type(error)(f"{file}: {shortened(str(error), MOST_SHOWN)}") from error


def family_of_published(published: Mapping) -> Family:
    """The family of a config.json: by its `model_type`, and by their markers where several families share one.

    Raises CheckpointError that lists the known ones.
    """
    model_type = published.get("model_type")
    marked = {
        family.name: family
        for family in _families().values()
        if family.marker and model_type in (family.model_type, *family.shared_types)
    }
    for family in marked.values():
        if published.get(family.marker) is not None:
            return family
    if marked and model_type not in _families():
        keys = [family.marker for family in marked.values()]
        raise CheckpointError(
            f"config.json has model_type {model_type!r} without {keys}: Hyla does not read that variant"
        )
    return family_of(model_type)
