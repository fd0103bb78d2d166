"""TOML files, read with errors that name them."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from hyla.errors import ConfigError


def read_tables(path: Path) -> dict[str, Any]:
    """A TOML file. Raises ConfigError for one that is not there or no TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # no UTF-8, no TOML, thousands of digits or of nested arrays
        raise ConfigError(f"{path} is not TOML: {error}") from None
