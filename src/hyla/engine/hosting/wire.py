"""What goes over the pipe between a server and the process of its engine.

Both ends are this package in one version and start each other, so the messages are pickled objects of it. What a client
sent is data in them, never a pickle of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hyla.engine.requests.facts import EngineFacts
from hyla.engine.requests.messages import TokenEvent


@dataclass(frozen=True)
class Launch:
    """How to make an engine, in whatever process."""

    folder: str
    """The model's folder, or its name on the hub."""
    options: dict[str, Any] = field(default_factory=dict)
    """Fields of `EngineOptions`."""
    max_requests: int = 512
    """Most unfinished requests (`EngineThread`)."""
    silence_seconds: float = 60.0
    """A process that says nothing for so long, as none that runs does, is killed and started again."""
    stop_seconds: float = 30.0
    """A process that was told to end has so long for its last step."""
    prepare: Callable[[], object] | None = None
    """Called first in the engine's process (for its logs); a function of a module."""


# To the engine's process


@dataclass(frozen=True)
class Call:
    """A method of `EngineThread` to call; its result, or its Future's, comes back as an `Answer` of the same number."""

    number: int
    verb: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Cancel:
    """Stop a request. Has no answer."""

    request_id: str


@dataclass(frozen=True)
class Stop:
    """End the engine and its process."""


# From the engine's process


@dataclass(frozen=True)
class Loading:
    """How many bytes of the weights are loaded, before the engine is ready."""

    done: int
    total: int


@dataclass(frozen=True)
class Ready:
    """The engine takes requests."""

    facts: EngineFacts
    status: dict[str, Any]


@dataclass(frozen=True)
class Rejected:
    """The engine cannot be made."""

    error: Exception


@dataclass(frozen=True)
class Answer:
    """What a `Call` returned, or raised."""

    number: int
    value: Any = None
    error: Exception | None = None


@dataclass(frozen=True)
class Beat:
    """The process runs."""

    step_seconds: float
    """How long the present step has; 0 between two steps."""


@dataclass(frozen=True)
class StepEvents:
    """The events of one step."""

    events: tuple[TokenEvent, ...]
