"""`nn.ModuleList` that says what it holds: `self.sublayers: ModuleList[Sublayer] = ModuleList(...)`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar, overload

from torch import nn

Held = TypeVar("Held", bound=nn.Module)

if TYPE_CHECKING:

    class ModuleList(nn.ModuleList, Generic[Held]):
        """PyTorch's own, typed."""

        def __init__(self, modules: Iterable[Held] = ()) -> None: ...

        def __iter__(self) -> Iterator[Held]: ...

        @overload
        def __getitem__(self, idx: slice) -> ModuleList[Held]: ...

        @overload
        def __getitem__(self, idx: int) -> Held: ...

        def __getitem__(self, idx: int | slice) -> ModuleList[Held] | Held: ...
else:
    ModuleList = nn.ModuleList
