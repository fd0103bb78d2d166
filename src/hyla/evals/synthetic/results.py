"""What runs found, as their files have it. No PyTorch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from hyla.errors import CheckpointError
from hyla.json_files import read_json


@dataclass(frozen=True)
class Score:
    """After `step` steps: the share of right answers of the test split, and of examples without a wrong one; loss: nats
    per answer in training, the mean since the score before."""

    step: int
    tokens: int
    accuracy: float
    whole: float
    loss: float


@dataclass(frozen=True)
class Result:
    """What a run found. by_length: accuracy of the last model at other lengths. seconds: of its training steps.
    diverged: its loss was no number any more, and the curve ends before. machine: what computed it, in words; "": not
    recorded."""

    curve: list[Score]
    by_length: dict[str, float]
    parameters: int
    seconds: float
    diverged: bool = False
    machine: str = ""

    @property
    def peak(self) -> float:
        """The best share of right answers."""
        return max((score.accuracy for score in self.curve), default=0.0)

    @property
    def lowest_loss(self) -> float:
        """In training; infinite where it diverged."""
        return math.inf if self.diverged else min(score.loss for score in self.curve)

    def ended_early(self, steps: int) -> bool:
        """Of a run of so many: whether it ended with a score that was enough."""
        return bool(self.curve) and self.curve[-1].step < steps and not self.diverged

    def steps_to(self, accuracy: float) -> int | None:
        """Steps to the first score that is at least this; None: never."""
        return next((score.step for score in self.curve if score.accuracy >= accuracy), None)


def read_result(file: Path) -> Result:
    """A finished run's file. Raises CheckpointError for one that is broken or has other keys."""
    found = read_json(file)
    try:
        curve = [Score(**score) for score in found["curve"]]
        fields = {name: found[name] for name in ("by_length", "parameters", "seconds")}
        return Result(curve, **fields, diverged=found.get("diverged", False), machine=found.get("machine", ""))
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{file} is no result of a synthetic task: {error}; move it away to run it again"
        ) from None
