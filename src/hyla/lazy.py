"""Names of a package that are imported at their first use, so that who needs no PyTorch does not load it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def exports(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package whose public names live in other modules.

    homes: by public name, its module; "module:name" where it is called otherwise there.
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}; it has {', '.join(sorted(homes))}")
        module, _, other = homes[name].partition(":")
        return getattr(import_module(module), other or name)

    return find, lambda: sorted(homes)
