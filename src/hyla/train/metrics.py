"""One JSON line per step, and a file that a killed run leaves in order."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from hyla.train.files import writing
from hyla.whole_files import write_whole


@dataclass(frozen=True)
class StepMetrics:
    """step: finished optimizer steps, from 1. loss: nats per token before the update. learning_rate: AdamW's.
    grad_norm: before clipping. tokens, seconds: of the whole run so far, resumed parts included."""

    step: int
    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    tokens_per_second: float
    seconds: float


class MetricsFile:
    """Appends lines; floats are written so that reading gives the same bits."""

    def __init__(self, path: Path):
        self.path = path

    def forget_after(self, step: int) -> None:
        """Drop the lines of steps that the checkpoint of `step` does not contain: they are computed again."""
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True) if self.path.exists() else []
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        with writing(self.path):
            write_whole(self.path, "".join(kept))

    def append(self, metrics: StepMetrics) -> None:
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(metrics)) + "\n")

    def read(self) -> list[StepMetrics]:
        lines = self.path.read_text(encoding="utf-8").splitlines()
        return [StepMetrics(**json.loads(line)) for line in lines]
