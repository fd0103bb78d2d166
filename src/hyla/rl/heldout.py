"""Scores of held-out tasks along the way. They change no bit of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from hyla.rl.config import HeldoutTasks
from hyla.rl.handover import HandsOver
from hyla.rl.metrics import HeldoutReward
from hyla.rl.rollouts import Rollouts
from hyla.rl.tasks import Task
from hyla.train.intervals import interval
from hyla.train.metrics import StepLines


class HeldoutScores:
    """Answers to the held-out tasks with the weights of the moment."""

    def __init__(
        self,
        config: HeldoutTasks,
        tasks: Sequence[Task],
        rollouts: Rollouts,
        hand_over: HandsOver,
        folder: Path,
        on_score: Callable[[HeldoutReward], None],
    ):
        self.config, self.tasks, self.rollouts, self.hand_over = config, tasks, rollouts, hand_over
        self.lines = StepLines(folder / "heldout-rewards.jsonl", HeldoutReward)
        self._on_score = on_score

    def is_due(self, number: int, is_last: bool) -> bool:
        """Whether to score before round `number`, or at the end."""
        return is_last or number % self.config.every == 0

    def score(self, step: int) -> HeldoutReward:
        """Of the trainer's weights as they are after `step` steps."""
        self.hand_over()
        found = self.rollouts.heldout(self.tasks, self.config.samples, self.config.temperature)
        means = [sum(one) / len(one) for one in found]
        low, high = interval(means)
        line = HeldoutReward(step, sum(means) / len(means), low, high, len(means), self.config.samples)
        self.lines.append(line)
        self._on_score(line)
        return line
