"""What a server has asked of an engine's process and has no answer to yet."""

from __future__ import annotations

import math
from concurrent.futures import Future
from dataclasses import dataclass, field

from hyla.engine.hosting.listeners import OnEvent
from hyla.engine.requests.messages import TokenEvent


@dataclass
class Opening:
    """A request that the process has not taken yet."""

    on_event: OnEvent
    early: list[TokenEvent] = field(default_factory=list)
    """Events that came before the word that it was taken."""
    is_cancelled: bool = False
    due: float = math.inf
    """When, on the clock, its deadline is."""


@dataclass(frozen=True)
class PendingCall:
    """A call without an answer."""

    verb: str
    future: Future
    opening: Opening | None
