"""What happens while the runs of a study are carried out, for whoever shows it. No PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hyla.study.execution.progress import Step


@dataclass(frozen=True)
class Begun:
    """A try began, the first one or another. number: of the try, from 1."""

    name: str
    number: int


@dataclass(frozen=True)
class Stepped:
    """Where a run is."""

    name: str
    step: Step


@dataclass(frozen=True)
class Finished:
    """A run's result is on the disk. is_old: it was before, and was not read. seconds: of its work, as its result says
    (`seconds` and `evaluation_seconds`), or else of its last try."""

    name: str
    is_old: bool = False
    result: dict[str, Any] | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Retried:
    """A try failed, and there will be another one. error: in a line."""

    name: str
    number: int
    error: str


@dataclass(frozen=True)
class Failed:
    """The last try failed, too. number: of tries. error: in a line."""

    name: str
    number: int
    error: str


@dataclass(frozen=True)
class Paused:
    """A run stopped because it was asked to; it goes on from there next time."""

    name: str


Event = Begun | Stepped | Finished | Retried | Failed | Paused
