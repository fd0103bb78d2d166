"""The turns of answers that are not whole yet, kept on the disk as they come: no call is made twice."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hyla.errors import CheckpointError
from hyla.rl.samples import Turn
from hyla.train.files import append_lines, kept_lines


@dataclass(frozen=True)
class DrawnTurn:
    """A turn with what the model drew in it, and what that cost."""

    turn: Turn
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Of each token, nats; none where nobody asked."""
    text: str
    """What the engine gave of it."""
    cached_tokens: int
    drafted_tokens: int
    accepted_tokens: int

    @staticmethod
    def read(line: dict) -> DrawnTurn:
        made: dict[str, Any] = line | {name: tuple(line[name]) for name in ("token_ids", "logprobs")}
        made["turn"] = Turn.read(line["turn"])
        return DrawnTurn(**made)


class TurnFile:
    """The turns of one round whose calls have been answered, a line each. A line that a killed process was writing is
    dropped: its turn is drawn again, to the same bits."""

    def __init__(self, path: Path):
        self.path = path

    def read(self) -> dict[tuple[int, int], list[DrawnTurn]]:
        """In order, by (group, member). Raises CheckpointError for a damaged line."""
        found: dict[tuple[int, int], list[DrawnTurn]] = {}
        for number, text in enumerate(kept_lines(self.path), start=1):
            try:
                line = json.loads(text)
                found.setdefault((line["group"], line["member"]), []).append(DrawnTurn.read(line["drawn"]))
            except (ValueError, TypeError, KeyError) as error:
                raise CheckpointError(
                    f"{self.path}, line {number} is damaged ({error}); delete the file: its turns are drawn again"
                ) from None
        return found

    def add(self, key: tuple[int, int], drawn: DrawnTurn) -> None:
        append_lines(self.path, [{"group": key[0], "member": key[1], "drawn": asdict(drawn)}])

    def remove(self) -> None:
        """All answers are whole."""
        self.path.unlink(missing_ok=True)
