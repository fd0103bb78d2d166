"""What happened to a run besides its steps: it began, went on, met a damaged checkpoint, went back, ended."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from hyla.train.files import writing

Kind = Literal["began", "resumed", "damaged", "moved", "spike", "rollback", "failed", "stopped", "finished"]
"""damaged: a checkpoint was passed over. moved: another device, or another arithmetic, goes on. spike: a step was
left out. rollback: back to a checkpoint. failed: a spike ended the run. stopped: somebody ended this process in good
order."""


@dataclass(frozen=True)
class Event:
    """time: UTC, ISO 8601. step: finished steps when it happened; of a rollback, those that the run went back from."""

    time: str
    step: int
    kind: Kind
    text: str


class EventLog:
    """Lines that are only ever added: what a run went back over stays told."""

    def __init__(self, path: Path):
        self.path = path

    def add(self, step: int, kind: Kind, text: str) -> None:
        """Write one event, now. A line that a kill cut short is left as it is, on a line of its own."""
        event = Event(datetime.now(UTC).isoformat(timespec="seconds"), step, kind, text)
        with writing(self.path), self.path.open("a+b") as file:
            start = b""
            if file.tell():
                file.seek(-1, 2)
                start = b"" if file.read(1) == b"\n" else b"\n"
            file.write(start + json.dumps(asdict(event)).encode() + b"\n")

    def read(self) -> list[Event]:
        """All events that were written whole, oldest first."""
        lines = self.path.read_bytes().splitlines() if self.path.exists() else []
        return [Event(**found) for line in lines if (found := _parsed(line)) is not None]


def _parsed(line: bytes) -> dict | None:
    try:
        return json.loads(line)
    except ValueError:
        return None
