"""Stacks spelled with one letter for each published layer, or as a list of names (Nemotron-H)."""

from __future__ import annotations

from collections.abc import Iterable

from hyla.errors import ConfigError
from hyla.models.config import SublayerConfig
from hyla.models.published import Published

LETTERS = {"mamba2": "M", "moe": "E", "softmax": "*", "mlp": "-"}
"""By kind of our sublayers."""
NAMES = {"linear_attention": "M", "mamba": "M", "full_attention": "*", "attention": "*", "moe": "E", "mlp": "-"}
"""By published name."""


def read_letters(family: str, keys: Published, key: str, list_key: str) -> str:
    """The letters of a stack, given under one key or as names under another.

    Raises ConfigError when the spellings disagree, there is none, or a letter is unknown.
    """
    listed = "".join(NAMES.get(kind, f"<{kind}>") for kind in getattr(keys, list_key) or ())
    pattern = getattr(keys, key) or listed
    if listed not in ("", pattern):
        raise ConfigError(f"{family}: {key} = {pattern!r} but {list_key} says {listed!r}")
    if not pattern or set(pattern) - set(LETTERS.values()):
        raise ConfigError(f"{family}: {key} = {pattern!r} must be letters of M, E, * and -")
    return pattern


def spell(sublayers: Iterable[SublayerConfig]) -> str:
    """The inverse; a kind without a letter stands in angle brackets, which no reader accepts."""
    return "".join(LETTERS.get(sub.module.kind, f"<{sub.module.kind}>") for sub in sublayers)
