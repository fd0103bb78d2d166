"""Runs one after the other, in this process."""

from __future__ import annotations

from collections.abc import Callable

from hyla.study.execution.attempt import attempt
from hyla.study.execution.progress import Step
from hyla.study.execution.protocol import Ending, OnStep, Try


class SerialPool:
    """A pool of one: a try is carried out while it is waited for."""

    def __init__(self, execute: str, threads: int):
        """threads: that compute in this process from now on."""
        from hyla.engine.threads import use_threads

        use_threads(threads)
        self._execute = execute
        self._next: Try | None = None

    @property
    def num_free(self) -> int:
        return 0 if self.is_busy else 1

    @property
    def is_busy(self) -> bool:
        return self._next is not None

    def start(self, one: Try) -> None:
        self._next = one

    def wait(self, on_step: OnStep, is_stopped: Callable[[], bool]) -> list[tuple[str, Ending]]:
        """As `Pool.wait`; returns when the run has ended."""
        one, self._next = self._next, None
        assert one is not None
        name = one.job.name

        def look(step: Step | None) -> bool:
            if step is not None:
                on_step(name, step)
            return is_stopped()

        return [(name, attempt(self._execute, one, look))]

    def close(self) -> None:
        """Nothing runs between two waits."""
