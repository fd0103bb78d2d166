"""Rewards of samples, by whatever the recipe names."""

from __future__ import annotations

from collections.abc import Sequence

from hyla.rl.rewards.config import RewardConfig
from hyla.rl.rewards.function import FunctionRewards
from hyla.rl.rewards.judge import Judge
from hyla.rl.rewards.judgement import Judgement
from hyla.rl.rewards.messages import asked, said


class Rewards:
    """Judges samples. A context manager: leaving it ends the processes that it started.

    A function runs in processes of its own (`worker.py`); nothing that it does ends or blocks this one. Its file is
    read once: a later change does not change a run.
    Raises ConfigError where no sample could be judged: a file or name that is not there, a file that does not run, a
    key that is not set.
    """

    def __init__(self, config: RewardConfig):
        self._by: FunctionRewards | Judge
        if config.judge is not None:
            self._by = Judge(config.judge)
        else:
            assert config.function is not None
            self._by = FunctionRewards(
                config.function,
                timeout_seconds=config.timeout_seconds,
                processes=config.processes,
                memory_gib=config.memory_gib,
            )

    def of(
        self, items: Sequence[tuple[str, dict]], conversations: Sequence[list[dict]] | None = None
    ) -> list[Judgement]:
        """items: (answer, row) of each sample, row being the task's line of JSON. conversations: theirs, in OpenAI's
        form; None: each is the task's, and the answer. Returns their judgements, in order.

        Raises TypeError or ValueError for a row that JSON cannot hold; whatever else goes wrong is a sample's problem.
        """
        if conversations is None:
            conversations = [[*asked(row), said(answer)] for answer, row in items]
        return self._by.of(items, conversations)

    def close(self) -> None:
        """End what was started; using it again starts it again."""
        self._by.close()

    def __enter__(self) -> Rewards:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
