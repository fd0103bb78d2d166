"""The TOML file of sizes and steps, as `hyla train --config` and `hyla cost` read it."""

from __future__ import annotations

from pathlib import Path

from hyla.errors import ConfigError
from hyla.toml_files import read_tables


def read_toml(path: Path | None) -> dict:
    """The file's tables. Raises ConfigError when it is missing, damaged, or has unknown tables."""
    if path is None:
        return {}
    tables = read_tables(path)
    unknown = sorted(tables.keys() - {"recipe", "train"})
    if unknown:
        raise ConfigError(f"{path}: unknown table or key {unknown[0]!r}; it may have [recipe] and [train]")
    return tables
