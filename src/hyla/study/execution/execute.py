"""All runs of a study, through whatever pool: tries, results on the disk, those that failed."""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hyla.errors import ConfigError
from hyla.study.execution.events import Begun, Event, Failed, Finished, Paused, Retried, Stepped
from hyla.study.execution.progress import Step
from hyla.study.execution.protocol import Ending, Job, Pool, Try, function_at
from hyla.study.execution.serial import SerialPool
from hyla.train.files import held, replace_json, writing

RESULTS, UNFINISHED, FAILED = "runs", "unfinished", "failed.json"
"""In a study's folder: a file for each result; a folder for each run that is not finished; runs that failed."""


@dataclass(frozen=True)
class Outcome:
    """Names of all runs, in the order in which they were given. failed: with the error of the last try. was_stopped: by
    whoever asked. is_out_of_time: `minutes` are over."""

    finished: tuple[str, ...]
    failed: dict[str, str]
    waiting: tuple[str, ...]
    was_stopped: bool = False
    is_out_of_time: bool = False

    @property
    def status(self) -> int:
        """Exit status: 1 where a run failed, 130 after a Ctrl-C, else 0: also where the time was over."""
        return 1 if self.failed else 130 if self.was_stopped else 0


def execute_all(
    jobs: Sequence[Job],
    *,
    folder: Path,
    execute: str,
    workers: int = 1,
    threads: int = 1,
    address: str | None = None,
    retries: int = 2,
    minutes: float | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Carry out the jobs that have no result in `folder/runs` yet, the first ones first.

    Args:
        jobs: with different names.
        folder: of the study. `runs/NAME.json` is a result, whole or absent; `unfinished/NAME` is what a run works in,
            and goes on from; `failed.json` names those that failed in the last call.
        execute: path of the function that does a run, "package.module:name" (see the package's page).
        workers: runs at once. 1, and no address: in this process, without Ray.
        threads: of each run.
        address: of a Ray cluster that this machine is part of, "host:port". All its machines have this Hyla and the
            texts; none of them needs another one's disk. None: Ray is started on this machine.
        retries: tries after the first one that failed, at the end of the queue; none after a ConfigError, which the
            next one would raise as well (on a cluster another machine might not). After an error (not after the death
            of its process) the last one begins anew.
        minutes: when they are over, no run is started, and those that run are asked to stop after their step.
        on_event: told what happens, now and then from another thread.
        is_stopped: when it comes true, it is as if the minutes were over.
    Raises: ConfigError for values that cannot be, where another process works in the folder, where Ray is missing or
        cannot be reached; CheckpointError for a disk that refuses a result. What the runs raise is in the outcome.
    """
    _check(jobs, workers, threads, retries, minutes)
    function_at(execute)
    if address is None:
        _check_processors(threads)
    with _holding(folder):
        execution = _Execution(list(jobs), folder, retries, minutes, on_event, is_stopped)
        execution.find_finished()
        if not execution.queue:
            execution.write_failed()
            return execution.outcome()
        pool = _pool(execute, workers, len(execution.queue), threads, address)
        try:
            return execution.run(pool)
        finally:
            pool.close()


def _pool(execute: str, workers: int, num_jobs: int, threads: int, address: str | None) -> Pool:
    """Of no more workers than there are jobs; several were asked for, so even one has a process of its own."""
    if workers == 1 and address is None:
        return SerialPool(execute, threads)
    from hyla.study.execution.on_ray import RayPool

    return RayPool(execute, min(workers, num_jobs), threads, address)


def _check(jobs: Sequence[Job], workers: int, threads: int, retries: int, minutes: float | None) -> None:
    for name, value, least in (("workers", workers, 1), ("threads", threads, 1), ("retries", retries, 0)):
        if value < least:
            raise ConfigError(f"{name} = {value}; at least {least}")
    if minutes is not None and not minutes > 0:
        raise ConfigError(f"minutes = {minutes}; more than 0, or none")
    names = [job.name for job in jobs]
    doubles = sorted({name for name in names if names.count(name) > 1})
    if doubles:
        raise ConfigError(f"two runs are called {doubles[0]}; every run needs a name of its own")


def _check_processors(threads: int) -> None:
    from hyla.engine.threads import quota, usable_cpus

    most = quota(usable_cpus())
    if threads > most:
        raise ConfigError(f"threads = {threads}, and this process may use {most} processors; lower threads")


@contextmanager
def _holding(folder: Path) -> Iterator[None]:
    """The folder, for this driver alone."""
    with writing(folder):
        (folder / RESULTS).mkdir(parents=True, exist_ok=True)
    with held(folder):
        yield


@dataclass
class _Queued:
    """A job that waits, and the tries that failed before."""

    job: Job
    tries: int = 0
    is_anew: bool = False


@dataclass
class _Execution:
    """One call of `execute_all`."""

    jobs: list[Job]
    folder: Path
    retries: int
    minutes: float | None
    on_event: Callable[[Event], None]
    is_asked_to_stop: Callable[[], bool]
    queue: deque[_Queued] = field(default_factory=deque)
    running: dict[str, tuple[_Queued, float]] = field(default_factory=dict)
    """By name, and when the try began."""
    finished: set[str] = field(default_factory=set)
    failed: dict[str, dict] = field(default_factory=dict)
    was_stopped: bool = False
    is_out_of_time: bool = False

    def __post_init__(self):
        self._deadline = None if self.minutes is None else time.monotonic() + 60.0 * self.minutes

    def file(self, name: str) -> Path:
        return self.folder / RESULTS / f"{name}.json"

    def work(self, name: str) -> Path:
        return self.folder / UNFINISHED / name

    def find_finished(self) -> None:
        """Those of earlier calls; all others wait."""
        for job in self.jobs:
            if self.file(job.name).exists():
                self.finished.add(job.name)
                shutil.rmtree(self.work(job.name), ignore_errors=True)  # of a driver that was killed in between
                self.on_event(Finished(job.name, is_old=True))
            else:
                self.queue.append(_Queued(job))

    def run(self, pool: Pool) -> Outcome:
        self.write_failed()
        while True:
            while self.queue and pool.num_free and not self.is_over():
                self._start(pool)
            if not pool.is_busy:
                return self.outcome()
            for name, ending in pool.wait(self._stepped, self.is_over):
                self._ended(name, ending)

    def is_over(self) -> bool:
        """Whether nothing is to be started any more. Once it is true, it stays so."""
        self.was_stopped = self.was_stopped or self.is_asked_to_stop()
        late = self._deadline is not None and time.monotonic() >= self._deadline
        self.is_out_of_time = self.is_out_of_time or late
        return self.was_stopped or self.is_out_of_time

    def _start(self, pool: Pool) -> None:
        queued = self.queue.popleft()
        name = queued.job.name
        self.running[name] = queued, time.monotonic()
        self.on_event(Begun(name, queued.tries + 1))
        pool.start(Try(queued.job, self.work(name).absolute(), queued.is_anew))

    def _stepped(self, name: str, step: Step) -> None:
        if name in self.running:  # what was told before the end may be read after it
            self.on_event(Stepped(name, step))

    def _ended(self, name: str, ending: Ending) -> None:
        queued, began = self.running.pop(name)
        if ending.kind == "finished":
            assert ending.result is not None
            self._finish(name, ending.result, time.monotonic() - began)
        elif ending.kind == "stopped" and self.is_over():
            self.queue.append(queued)
            self.on_event(Paused(name))
        else:
            self._fail(queued, ending)

    def _finish(self, name: str, result: dict, wall_seconds: float) -> None:
        replace_json(self.file(name), result)
        shutil.rmtree(self.work(name), ignore_errors=True)
        self.finished.add(name)
        seconds = result.get("seconds")
        if isinstance(seconds, int | float):
            seconds = float(seconds) + float(result.get("evaluation_seconds") or 0.0)
        self.on_event(Finished(name, result=result, seconds=wall_seconds if seconds is None else seconds))

    def _fail(self, queued: _Queued, ending: Ending) -> None:
        name, error = queued.job.name, ending.error or "it stopped, and nobody had asked it to"
        queued.tries += 1
        if queued.tries <= self.retries and not ending.is_final:
            queued.is_anew = queued.tries == self.retries and not ending.died
            self.queue.append(queued)
            self.on_event(Retried(name, queued.tries, error))
            return
        told = {"told": queued.job.told, "tries": queued.tries, "error": error, "trace": ending.trace}
        self.failed[name] = told
        self.write_failed()
        self.on_event(Failed(name, queued.tries, error))

    def write_failed(self) -> None:
        """`failed.json`, or nothing where none has failed."""
        file = self.folder / FAILED
        if self.failed:
            replace_json(file, self.failed)
        else:
            file.unlink(missing_ok=True)

    def outcome(self) -> Outcome:
        names = [job.name for job in self.jobs]
        return Outcome(
            tuple(name for name in names if name in self.finished),
            {name: self.failed[name]["error"] for name in names if name in self.failed},
            tuple(name for name in names if name not in self.finished and name not in self.failed),
            self.was_stopped,
            self.is_out_of_time,
        )
