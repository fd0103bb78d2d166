"""Hyla: hybrid linear attention models, defined once, trained, converted, measured and served from it.

>>> import hyla
>>> model = hyla.load("folder")                                            # doctest: +SKIP
>>> engine = hyla.Engine(model)                                            # doctest: +SKIP
>>> engine.generate([[1, 2, 3]], hyla.SamplingParams(max_tokens=8))        # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module

_HOMES = {
    "load": ("hyla.checkpoints", "load_model"),
    "save": ("hyla.checkpoints", "save_model"),
    "Engine": ("hyla.engine", "Engine"),
    "SamplingParams": ("hyla.engine", "SamplingParams"),
}

__all__ = ["Engine", "SamplingParams", "load", "save"]


def __getattr__(name: str):
    # Imported when asked for: `import hyla` alone must not load PyTorch.
    if name not in _HOMES:
        raise AttributeError(f"module 'hyla' has no attribute {name!r}; it has {', '.join(__all__)}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
