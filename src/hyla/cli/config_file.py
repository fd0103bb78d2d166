"""The TOML file of a training run, as `hyla train --config` and `hyla cost` read it."""

from __future__ import annotations

import tomllib
from pathlib import Path

from hyla.errors import ConfigError


def read_toml(path: Path | None) -> dict:
    """The file's tables. Raises ConfigError when it is missing, damaged, or has unknown tables."""
    if path is None:
        return {}
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"config file {path} does not exist") from None
    except OSError as error:
        raise ConfigError(f"config file {path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # no UTF-8, no TOML, thousands of digits or of nested arrays
        raise ConfigError(f"config file {path} is not TOML: {error}") from None
    unknown = sorted(tables.keys() - {"recipe", "train"})
    if unknown:
        raise ConfigError(f"config file {path}: unknown table or key {unknown[0]!r}; it may have [recipe] and [train]")
    return tables
