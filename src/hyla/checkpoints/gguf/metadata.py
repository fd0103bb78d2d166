"""The metadata of a GGUF model, read by type, with account of what was read. Needs no PyTorch."""

from __future__ import annotations

from math import isfinite
from pathlib import Path

import numpy as np

from hyla.checkpoints.gguf.file import Texts, Value
from hyla.errors import CheckpointError


class Metadata:
    """Keys below a prefix. `unread` are those that nobody has asked for: what they mean nobody has honoured.

    All getters raise CheckpointError that names file, key and value; with a default, an absent key gives that.
    """

    def __init__(self, path: Path, values: dict[str, Value], prefix: str = ""):
        self.path, self.prefix = path, prefix
        self._values = values
        self._read: set[str] = set()

    def below(self, prefix: str) -> Metadata:
        """The keys that start with a prefix, with an account of their own."""
        return Metadata(self.path, self._values, prefix)

    def __contains__(self, key: str) -> bool:
        return self.prefix + key in self._values

    @property
    def unread(self) -> list[str]:
        """Full names."""
        return sorted(key for key in self._values if key.startswith(self.prefix) and key not in self._read)

    def pass_over(self, *keys: str) -> None:
        """Count keys as read that say nothing about the model."""
        self._read.update(self.prefix + key for key in keys)

    def _get(self, key: str) -> Value | None:
        self._read.add(self.prefix + key)
        return self._values.get(self.prefix + key)

    def _wrong(self, key: str, should: str) -> CheckpointError:
        found = self._values.get(self.prefix + key)
        if found is None:
            return CheckpointError(f"{self.path}: key {self.prefix}{key} is missing; convert the model again")
        said = f"= {found!r}" if isinstance(found, int | float) else f"is a {type(found).__name__}"
        return CheckpointError(
            f"{self.path}: {self.prefix}{key} {said} and should be {should}; convert the model again"
        )

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number of any width, at least 0."""
        found = self._get(key)
        if found is None and default is not None:
            return default
        if type(found) is not int or found < 0:
            raise self._wrong(key, "a whole number")
        return found

    def count(self, key: str, default: int | None = None) -> int:
        """A whole number of any width, at least 1."""
        if (found := self.integer(key, default)) < 1:
            raise self._wrong(key, "at least 1")
        return found

    def maybe_integer(self, key: str) -> int | None:
        """As `integer`; None where it is absent."""
        return self.integer(key) if key in self else None

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number."""
        found = self._get(key)
        if found is None and default is not None:
            return default
        if isinstance(found, bool) or not isinstance(found, int | float) or not isfinite(found):
            raise self._wrong(key, "a number")
        return float(found)

    def flag(self, key: str, default: bool | None = None) -> bool:
        """True or false."""
        found = self._get(key)
        if found is None and default is not None:
            return default
        if type(found) is not bool:
            raise self._wrong(key, "true or false")
        return found

    def text(self, key: str, default: str | None = None) -> str:
        """A text in UTF-8."""
        found = self._get(key)
        if found is None and default is not None:
            return default
        if not isinstance(found, bytes):
            raise self._wrong(key, "a text")
        try:
            return found.decode("utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{self.path}: {self.prefix}{key} is not UTF-8; convert the model again") from error

    def maybe_text(self, key: str) -> str | None:
        """As `text`; None where it is absent."""
        return self.text(key) if key in self else None

    def texts(self, key: str) -> Texts:
        """An array of texts; none where it is absent, since empty arrays are not written."""
        found = self._get(key)
        if found is None or (isinstance(found, np.ndarray) and not len(found)):
            return Texts(memoryview(b""), 0, 0)
        if not isinstance(found, Texts):
            raise self._wrong(key, "a list of texts")
        return found

    def array(self, key: str) -> np.ndarray | None:
        """An array of numbers or flags; None where it is absent."""
        found = self._get(key)
        if found is None:
            return None
        if not isinstance(found, np.ndarray):
            raise self._wrong(key, "a list of numbers")
        return found

    def per_layer(self, key: str, num_layers: int, default: int | None = None) -> list[int]:
        """Whole numbers, one for each layer; a single one stands for all."""
        found = self._get(key)
        if isinstance(found, np.ndarray) and found.dtype.kind in "iub":
            if len(found) != num_layers or (len(found) and int(found.min()) < 0):
                raise self._wrong(key, f"{num_layers} whole numbers, one for each layer")
            return [int(value) for value in found]
        return [self.integer(key, default)] * num_layers
