"""Names of Hyla whose module may differ between the two revisions of `--base`: found by their definition.

Benchmarks that are compared with older or newer sources import `hyla` itself, and everything else from here.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any


def find(name: str, under: str = "hyla") -> Any:
    """The class or function `name` of the first module below the package `under` that defines it."""
    package = import_module(under)
    if hasattr(package, name):
        return getattr(package, name)
    root = Path(package.__file__).parent
    for file in sorted(root.rglob("*.py")):
        if re.search(rf"^(?:class|def) {name}\b", file.read_text(encoding="utf-8"), re.MULTILINE):
            parts = file.relative_to(root).with_suffix("").parts
            return getattr(import_module(".".join([under, *parts]).removesuffix(".__init__")), name)
    raise ImportError(f"no module below {under} defines {name}")


def cache_class() -> Any:
    return find("Cache", "hyla.caches")


def keep_freed_memory() -> None:
    """As training and serving do; see the function itself."""
    find("keep_freed_memory", "hyla.ops")()
