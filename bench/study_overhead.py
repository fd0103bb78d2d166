"""What carrying out the runs of a study costs beside the runs: in this process, and through Ray.

    python -m bench study_overhead [--runs 6] [--seconds 2] [--workers 2]

Each run computes for so many seconds of its own processor time, so that other work on the machine slows runs and what
is beside them alike. Beside a run is the time from its begin to its result, less its own; what comes once in a call is
told apart: Ray's start and end, and a worker's start, which imports PyTorch, in the first run of each. In this process,
then through Ray (skipped where it is not installed). Each way is checked: all results are there, each run was done
once. The target: less than 5% of a study of twelve runs of 60 s.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from bench.outcome import Outcome
from hyla.engine.waiting_threads import load_torch
from hyla.study.execution import Begun, Event, Finished, Progress, execute_all

STEP_SECONDS = 0.02
TOLD_STEPS = 20_000
MOST_SHARE, STUDY_RUNS, STUDY_SECONDS = 0.05, 12, 60.0


@dataclass(frozen=True)
class Work:
    """A run. seconds: of the processor, that it takes."""

    name: str
    seconds: float

    @property
    def told(self) -> str:
        return f"{self.name}, {self.seconds} s"


def work(job: Work, folder: Path) -> dict:
    """Steps that compute, told as a training's are."""
    began, progress = time.monotonic(), Progress(folder)
    steps = max(1, round(job.seconds / STEP_SECONDS))
    for step in range(steps):
        until = time.thread_time() + STEP_SECONDS
        while time.thread_time() < until:
            sum(range(100))
        progress.tell(step + 1, steps, step + 1)
        assert not progress.is_stopped()
    return {"seconds": time.monotonic() - began}


def study(options: argparse.Namespace, workers: int) -> dict[str, float]:
    """Seconds of a run, beside each, and of what comes once."""
    begun: dict[str, float] = {}
    beside: list[float] = []
    own: list[float] = []
    jobs = [Work(f"run-{number}", options.seconds) for number in range(options.runs)]

    def note(event: Event) -> None:
        if isinstance(event, Begun):
            begun[event.name] = time.monotonic()
        elif isinstance(event, Finished):
            beside.append(time.monotonic() - begun[event.name] - event.seconds)
            own.append(event.seconds)

    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        outcome = execute_all(
            jobs, folder=Path(folder) / "study", execute="bench.study_overhead:work", workers=workers, on_event=note
        )
        whole = time.monotonic() - start
    assert outcome.finished == tuple(job.name for job in jobs) and len(own) == len(begun) == options.runs
    # Where there are workers, the first run of each waits for its start.
    first, later = (beside[:workers], beside[workers:]) if workers > 1 else ([0.0], beside)
    per_run = statistics.fmean(later)
    once = whole - (sum(own) + per_run * options.runs) / workers
    return {"run": statistics.fmean(own), "per_run": per_run, "first_run": max(first), "once": once}


def share(found: dict[str, float], workers: int, seconds: float) -> float:
    """Of the time of STUDY_RUNS runs that are longer than these by STUDY_SECONDS / seconds."""
    runs = found["run"] * STUDY_SECONDS / seconds * STUDY_RUNS / workers
    return (found["per_run"] * STUDY_RUNS / workers + found["once"]) / runs


def telling() -> float:
    """Microseconds of a step that is told, and of asking whether to stop."""
    with tempfile.TemporaryDirectory() as folder:
        progress = Progress(Path(folder))
        began = time.perf_counter()
        for step in range(TOLD_STEPS):
            progress.tell(step, TOLD_STEPS, step)
            progress.is_stopped()
        return (time.perf_counter() - began) / TOLD_STEPS * 1e6


def run(options: argparse.Namespace) -> Outcome:
    if options.runs <= options.workers:
        raise SystemExit(f"--runs {options.runs}; more than --workers {options.workers}")
    load_torch()
    ways = {"serial": 1} | ({"ray": options.workers} if find_spec("ray") else {})
    results: dict[str, dict[str, float]] = {}
    for name, workers in ways.items():
        found = study(options, workers)
        results[name] = {**found, "workers": workers, "share": share(found, workers, options.seconds)}
        print(
            f"{name}, {workers} at once: runs of {found['run']:.1f} s, {found['per_run']:.3f} s beside each, "
            f"{found['once']:.1f} s once; {results[name]['share']:.2%} of a study of {STUDY_RUNS} runs of "
            f"{STUDY_SECONDS:g} s"
        )
    microseconds = telling()
    print(f"a step that is told: {microseconds:.1f} us")
    passed = all(found["share"] < MOST_SHARE for found in results.values())
    return Outcome({**results, "told_step_microseconds": microseconds}, passed)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=2.0, help="of the processor, of one run")
    parser.add_argument("--workers", type=int, default=2, help="at once, through Ray")
