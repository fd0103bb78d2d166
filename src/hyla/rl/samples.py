"""Answers as the engine wrote them and as they were judged, kept on the disk as they come."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hyla.errors import CheckpointError
from hyla.train.files import append_lines, kept_lines


@dataclass(frozen=True)
class Turn:
    """What the model wrote at once, in an answer that may have several turns, and what came of its calls."""

    added_ids: tuple[int, ...]
    """What the chat template wrote between the turn before and this one; nothing before the first."""
    num_tokens: int
    """That the model drew."""
    message: dict
    """It, in OpenAI's form."""
    results: tuple[dict, ...] = ()
    """Those of its calls, in OpenAI's form; none where it was the last turn."""
    num_errors: int = 0
    """Calls that failed, and texts with a mark of calls in which none can be read."""

    @staticmethod
    def read(line: dict) -> Turn:
        made: dict[str, Any] = line | {name: tuple(line[name]) for name in ("added_ids", "results")}
        return Turn(**made)


@dataclass(frozen=True)
class Sample:
    """One answer to one task."""

    group: int
    """Place of its task in the round."""
    member: int
    """Place among the task's answers."""
    task: int
    """Number of the task in its file, from 0."""
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    """All that was sampled, in all turns, the tokens that ended them included."""
    logprobs: tuple[float, ...]
    """Of each token, nats, under the distribution that it was drawn from: what the engine said then."""
    text: str
    """Of the last turn. Special tokens are left out, unless some of them mark calls."""
    finish_reason: str
    cached_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    reward: float | None = None
    problem: str | None = None
    """Why there is no reward."""
    routes: str | None = None
    """The experts of its tokens (`RouterChoices.text`), where they are replayed."""
    turns: tuple[Turn, ...] = ()
    """Where tools may be called; else it is one turn."""

    def pieces(self) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
        """What the model read, and what it drew behind that, in turn."""
        if not self.turns:
            yield self.prompt_ids, self.token_ids
        read, place = self.prompt_ids, 0
        for turn in self.turns:
            yield (*read, *turn.added_ids), self.token_ids[place : place + turn.num_tokens]
            read, place = (), place + turn.num_tokens

    def conversation(self, asked: Sequence[dict]) -> list[dict]:
        """In OpenAI's form, behind the messages of the task."""
        if not self.turns:
            return [*asked, {"role": "assistant", "content": self.text}]
        return [*asked, *(message for turn in self.turns for message in (turn.message, *turn.results))]

    @property
    def key(self) -> tuple[int, int]:
        return self.group, self.member

    @property
    def is_judged(self) -> bool:
        return self.reward is not None or self.problem is not None


class RoundFile:
    """The answers of one round, a line each when they are there and another when they are judged.

    Floats are written so that reading gives the same bits. A line that a killed process was writing is dropped.
    """

    def __init__(self, path: Path):
        self.path = path

    def read(self) -> dict[tuple[int, int], Sample]:
        """What is there, by (group, member). Raises CheckpointError for a damaged line."""
        found: dict[tuple[int, int], Sample] = {}
        for number, line in enumerate(kept_lines(self.path), start=1):
            try:
                self._take(json.loads(line), found)
            except (ValueError, TypeError, KeyError) as error:
                raise CheckpointError(
                    f"{self.path}, line {number} is damaged ({error}); delete the file: where no step depends on it "
                    "yet, its answers are sampled again"
                ) from None
        return found

    @staticmethod
    def _take(line: dict, found: dict[tuple[int, int], Sample]) -> None:
        if "token_ids" in line:
            for name in ("prompt_ids", "token_ids", "logprobs"):
                line[name] = tuple(line[name])
            line["turns"] = tuple(Turn.read(turn) for turn in line.get("turns", ()))
            sample = Sample(**line)
            found[sample.key] = sample
        else:
            key = line["group"], line["member"]
            found[key] = replace(found[key], reward=line["reward"], problem=line["problem"])

    def add(self, samples: Iterable[Sample]) -> None:
        """Answers that are not judged yet."""
        lines = map(asdict, samples)
        self._append({name: value for name, value in line.items() if name != "routes" or value} for line in lines)

    def judge(self, samples: Iterable[Sample]) -> None:
        """The rewards of answers that are there."""
        fields = ("group", "member", "reward", "problem")
        self._append({name: getattr(one, name) for name in fields} for one in samples)

    def _append(self, lines: Iterable[dict]) -> None:
        append_lines(self.path, lines)
