"""The user's cache folder: compiled kernels, the measured machine, fetched models. All of it can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`hyla` in XDG_CACHE_HOME, or in ~/.cache; it may not be there yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hyla"
