"""A reward function of the user's, called in processes that may hang, crash and be started again."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hyla.rl.rewards.judgement import Judgement, failed, judged
from hyla.rl.rewards.worker import CONVERSATION
from hyla.rl.user_process import ProcessPool, UserProcess, file_job

WORKER = "hyla.rl.rewards.worker"


class FunctionRewards:
    """function: FILE.py:NAME; the file is read once. timeout_seconds: of one sample. processes: how many call it at
    once. memory_gib: address space of each.

    Raises ConfigError for a file that cannot be read or run, and a name that is no such function.
    """

    def __init__(self, function: str, *, timeout_seconds: float = 10.0, processes: int = 1, memory_gib: float = 8.0):
        file, _, name = function.rpartition(":")
        place = Path(file).absolute()
        called = f"reward function {place}:{name}"
        job = {"name": name, **file_job(place, called, memory_gib)}
        self._pool = ProcessPool(lambda: UserProcess(WORKER, called, job, timeout_seconds), processes)
        self._callers = self._pool.all
        self._callers[0].start()

    def of(self, items: Sequence[tuple[str, dict]], conversations: Sequence[list[dict]]) -> list[Judgement]:
        """See `Rewards.of`."""
        asked = list(zip(items, conversations, strict=True))
        if len(self._callers) == 1:
            return [self._judge(one) for one in asked]
        with ThreadPoolExecutor(len(self._callers)) as threads:
            return list(threads.map(self._judge, asked))

    def _judge(self, asked: tuple[tuple[str, dict], list[dict]]) -> Judgement:
        (answer, row), messages = asked
        with self._pool.one() as process:
            reply = process.reply({"answer": answer, "row": row, CONVERSATION: messages})
        return judged(reply["reward"]) if "reward" in reply else failed(reply["problem"])

    def close(self) -> None:
        self._pool.close()
