"""Answers as the engine wrote them and as they were judged, kept on the disk as they come."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from hyla.errors import CheckpointError
from hyla.train.files import whole_lines, writing


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
    """All that was sampled, the token that ended it included."""
    logprobs: tuple[float, ...]
    """Of each token, nats, under the distribution that it was drawn from: what the engine said then."""
    text: str
    """Without special tokens."""
    finish_reason: str
    cached_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    reward: float | None = None
    problem: str | None = None
    """Why there is no reward."""
    routes: str | None = None
    """The experts of its tokens (`RouterChoices.text`), where they are replayed."""

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
        if not self.path.exists():
            return {}
        data = self.path.read_bytes()
        if not data.endswith(b"\n"):
            with writing(self.path):
                os.truncate(self.path, data.rfind(b"\n") + 1)
        found: dict[tuple[int, int], Sample] = {}
        for number, line in enumerate(whole_lines(data), start=1):
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
        self._append(
            {"group": one.group, "member": one.member, "reward": one.reward, "problem": one.problem} for one in samples
        )

    def _append(self, lines: Iterable[dict]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())
