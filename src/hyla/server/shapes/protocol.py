"""What every API's form of an answer has in common."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from hyla.answers.protocol import Delta
from hyla.engine import TokenEvent
from hyla.server.reading.errors import HTTPFailure, error_body
from hyla.server.shapes.choice import Choice


class Shape:
    """One request's answer while it grows. Streaming or not, every event goes through `add`."""

    def __init__(self, choices: Sequence[Choice], choices_per_prompt: int):
        self.choices, self.choices_per_prompt = list(choices), choices_per_prompt

    def add(self, index: int, event: TokenEvent) -> list[Delta]:
        return self.choices[index].add(event)

    def answer(self) -> dict[str, Any]:
        """The whole body, once every choice has finished."""
        raise NotImplementedError

    def opening(self) -> Iterable[bytes]:
        """What a stream starts with."""
        return ()

    def updates(self, index: int, event: TokenEvent) -> Iterable[bytes]:
        """Add an event; the chunks that tell it."""
        raise NotImplementedError

    def closing(self) -> Iterable[bytes]:
        """What a stream of finished choices ends with."""
        return ()

    def failed(self, failure: HTTPFailure) -> Iterable[bytes]:
        """How a stream ends that cannot be finished."""
        yield data_line(error_body(str(failure), kind=failure.kind, code=failure.code))


def data_line(body: dict, event: str | None = None) -> bytes:
    """One server-sent event. JSON in ASCII: some clients split lines at every Unicode line end."""
    data = b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"
    return data if event is None else b"event: " + event.encode() + b"\n" + data
