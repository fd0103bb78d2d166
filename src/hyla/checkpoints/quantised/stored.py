"""Stored tensors by module and role, with errors that name them. Needs no PyTorch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from hyla.errors import CheckpointError

if TYPE_CHECKING:  # configs are read without PyTorch
    import torch

    from hyla.checkpoints.files import TensorSource

FLOATS = ("F32", "BF16", "F16")
"""Dtypes of scales."""
WAY_OUT = "fetch it again, or take another quantisation of the model"


class Headers:
    """Names, shapes and dtypes of a folder's tensors, grouped by what belongs together."""

    def __init__(self, place: Path, source: TensorSource):
        self.place, self.source = place, source

    def modules(self, roles: Mapping[str, str]) -> dict[str, dict[str, str]]:
        """Module -> role -> stored name, of the tensors with these suffixes (suffix -> role)."""
        found: dict[str, dict[str, str]] = defaultdict(dict)
        for name in self.source:
            for suffix, role in roles.items():
                if name.endswith(suffix):
                    found[name.removesuffix(suffix)][role] = name
                    break
        return dict(found)

    def need(self, module: str, parts: Mapping[str, str], *suffixes_and_roles: tuple[str, str]) -> None:
        """Raise CheckpointError for the first (suffix, role) that a module does not have."""
        beside = parts.get("codes") or next(iter(parts.values()))
        for suffix, role in suffixes_and_roles:
            if role not in parts:
                raise CheckpointError(f"{self.place}: tensor {module}{suffix} is missing beside {beside}; {WAY_OUT}")

    def matrix(self, name: str, *dtypes: str) -> tuple[int, int]:
        """The shape of a tensor that must be a matrix of one of these dtypes, with numbers in it."""
        shape = self.source.shape(name)
        if len(shape) != 2 or not all(shape) or self.source.dtype(name) not in dtypes:
            self.refuse(name, f"is {self._described(name)} instead of a matrix of {' or '.join(dtypes)}")
        return shape[0], shape[1]

    def expect(self, name: str, shapes: Sequence[tuple[int, ...]], *dtypes: str) -> tuple[int, ...]:
        """The shape of a tensor that must have one of these shapes and dtypes."""
        shape = self.source.shape(name)
        if shape not in shapes or self.source.dtype(name) not in dtypes:
            wanted = " or ".join(str(shape) for shape in shapes)
            self.refuse(name, f"is {self._described(name)} instead of {' or '.join(dtypes)} {wanted}")
        return shape

    def refuse(self, name: str, problem: str) -> NoReturn:
        raise CheckpointError(f"{self.place}: tensor {name} {problem}; {WAY_OUT}")

    def _described(self, name: str) -> str:
        return f"{self.source.dtype(name)} {self.source.shape(name)}"


class Parts:
    """The stored tensors of one published weight, read when they are asked for."""

    def __init__(self, place: Path, source: TensorSource, names: Mapping[str, str]):
        self._place, self._source, self._names = place, source, names

    def __contains__(self, role: str) -> bool:
        return role in self._names

    def __getitem__(self, role: str) -> torch.Tensor:
        """As it is stored; a view of the file."""
        return self._source.tensor(self._names[role])

    def finite(self, role: str) -> torch.Tensor:
        """As float32. Raises CheckpointError when a number is not finite."""
        found = self[role].float()
        if not bool(found.isfinite().all()):
            self.refuse(role, "holds numbers that are not finite")
        return found

    def refuse(self, role: str, problem: str) -> NoReturn:
        raise CheckpointError(f"{self._place}: tensor {self._names[role]} {problem}; {WAY_OUT}")
