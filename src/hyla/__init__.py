"""Hyla: hybrid linear attention models, defined once, trained, converted, measured and served from it.

>>> import hyla
>>> model = hyla.load("folder")                                            # doctest: +SKIP
>>> engine = hyla.Engine(model)                                            # doctest: +SKIP
>>> engine.generate([[1, 2, 3]], hyla.SamplingParams(max_tokens=8))        # doctest: +SKIP
"""

from __future__ import annotations

from hyla.lazy import exports

__all__ = ["Engine", "SamplingParams", "load", "save"]

__getattr__, __dir__ = exports(
    __name__,
    {
        "load": "hyla.checkpoints:load_model",
        "save": "hyla.checkpoints:save_model",
        "Engine": "hyla.engine",
        "SamplingParams": "hyla.engine",
    },
)
