"""Where the runs of a study stand, and how long the rest may take. No PyTorch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hyla.study.execution.events import Begun, Event, Failed, Finished, Paused, Retried, Stepped
from hyla.study.execution.progress import Step
from hyla.study.execution.protocol import Job

NEAR = 0.05
"""Of the logarithm: runs whose FLOPs differ by no more count as equally large."""


@dataclass
class Running:
    """One run that goes on. number: of its try, from 1."""

    told: str
    number: int
    step: Step | None = None


class Standing:
    """Follows the events of `execute_all`.

    A run's seconds are its FLOPs times the seconds per FLOP of those finished runs that are nearest in size: small runs
    use a machine less well than large ones.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        workers: int = 1,
        flops: Mapping[str, float] | None = None,
        earlier: Iterable[tuple[float, float]] = (),
    ):
        """flops: of each job by its name; None: all are equally large. earlier: (FLOPs, seconds) of runs that were
        finished before, on the same machine."""
        self.told = {job.name: job.told for job in jobs}
        self._flops = {job.name: 1.0 if flops is None else flops[job.name] for job in jobs}
        self._workers, self._measured = workers, list(earlier)
        self.waiting = dict.fromkeys(self.told)
        """Names, in order."""
        self.running: dict[str, Running] = {}
        self.finished: list[str] = []
        self.failed: dict[str, str] = {}
        """Errors by name."""

    def __call__(self, event: Event) -> None:
        """What happened."""
        name = event.name
        match event:
            case Begun(number=number):
                self.waiting.pop(name, None)
                self.running[name] = Running(self.told[name], number)
            case Stepped(step=step):
                self.running[name].step = step
            case Finished():
                self.waiting.pop(name, None)
                self.running.pop(name, None)
                self.finished.append(name)
                if not event.is_old:
                    self._measured.append((self._flops[name], event.seconds))
            case Retried() | Paused():
                self.running.pop(name, None)
                self.waiting[name] = None
            case Failed(error=error):
                self.running.pop(name, None)
                self.failed[name] = error

    def counts(self) -> str:
        """In words, without what there is none of.

        >>> Standing([]).counts()
        '0 of 0 finished'
        """
        others = (("running", self.running), ("waiting", self.waiting), ("failed", self.failed))
        said = [f"{len(self.finished)} of {len(self.told)} finished"]
        return ", ".join(said + [f"{len(found)} {word}" for word, found in others if found])

    def seconds_left(self) -> float | None:
        """Until all are finished; None where nothing tells yet."""
        measured = self._measured or self._projected()
        if not measured:
            return None
        rests = [self._rest(name, one.step, measured) for name, one in self.running.items()]
        rests += [self._seconds(name, measured) for name in self.waiting]
        return max([sum(rests) / self._workers, *rests], default=0.0)

    def _projected(self) -> list[tuple[float, float]]:
        """(FLOPs, seconds) of those that run, if they go on as fast."""
        found = []
        for name, one in self.running.items():
            if one.step is not None and one.step.step and one.step.tokens_per_second:
                tokens = one.step.tokens * one.step.steps / one.step.step
                found.append((self._flops[name], tokens / one.step.tokens_per_second))
        return found

    def _seconds(self, name: str, measured: list[tuple[float, float]]) -> float:
        flops = self._flops[name]
        distances = [abs(math.log(other / flops)) for other, _ in measured]
        limit = min(distances) + NEAR
        per_flop = [seconds / other for (other, seconds), far in zip(measured, distances) if far <= limit]
        return flops * statistics.fmean(per_flop)

    def _rest(self, name: str, step: Step | None, measured: list[tuple[float, float]]) -> float:
        done = 0.0 if step is None else step.step / max(1, step.steps)
        return self._seconds(name, measured) * (1.0 - done)
