"""What carrying out the runs of a study costs beside the runs: in this process, and through Ray.

    python -m bench study_overhead [--runs 6] [--seconds 4] [--workers 2]

Runs sleep, so that what is measured is neither theirs nor the machine's other work: the wall's time of a study less
that of its runs, as they measured it themselves. In this process, then through Ray (skipped where it is not installed).
Starting and ending are told apart: they come once for each stage of a study. Each is checked: all results are there,
and each run was done once.
The target: less than 5% of a study of twelve runs of 60 s.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from bench.outcome import Outcome
from hyla.study.execution import Begun, Event, Finished, Progress, execute_all

STEP_SECONDS = 0.05
TOLD_STEPS = 20_000
MOST_SHARE, STUDY_RUNS, STUDY_SECONDS = 0.05, 12, 60.0


@dataclass(frozen=True)
class Sleep:
    """A run. seconds: that it takes."""

    name: str
    seconds: float

    @property
    def told(self) -> str:
        return f"{self.name}, {self.seconds} s"


def sleep(job: Sleep, work: Path) -> dict:
    """Steps that take no processor, told as a training's are."""
    began, progress = time.monotonic(), Progress(work)
    steps = max(1, round(job.seconds / STEP_SECONDS))
    for step in range(steps):
        time.sleep(STEP_SECONDS)
        progress.tell(step + 1, steps, step + 1)
        assert not progress.is_stopped()
    return {"seconds": time.monotonic() - began}


def study(options: argparse.Namespace, workers: int) -> dict[str, float]:
    """Seconds beside the runs: of each run, and of what comes once."""
    events: list[tuple[float, Event]] = []
    jobs = [Sleep(f"run-{number}", options.seconds) for number in range(options.runs)]
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        outcome = execute_all(
            jobs,
            folder=Path(folder) / "study",
            execute="bench.study_overhead:sleep",
            workers=workers,
            on_event=lambda event: events.append((time.monotonic(), event)),
        )
        ended = time.monotonic()
        assert outcome.finished == tuple(job.name for job in jobs)
    started = [at for at, event in events if isinstance(event, Begun)]
    finished = [(at, event) for at, event in events if isinstance(event, Finished)]
    assert len(started) == len(finished) == options.runs
    first, last = min(started), max(at for at, _ in finished)
    slept = sum(event.seconds for _, event in finished)
    return {
        "per_run": ((last - first) * min(workers, options.runs) - slept) / options.runs,
        "once": (first - began) + (ended - last),
    }


def share(found: dict[str, float], workers: int) -> float:
    """Of the time of a study of STUDY_RUNS runs of STUDY_SECONDS."""
    beside = found["per_run"] * STUDY_RUNS / workers + found["once"]
    return beside / (STUDY_SECONDS * STUDY_RUNS / workers)


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
    ways = {"serial": 1} | ({"ray": options.workers} if find_spec("ray") else {})
    results: dict[str, dict[str, float]] = {}
    for name, workers in ways.items():
        found = study(options, workers)
        results[name] = {**found, "workers": workers, "share": share(found, workers)}
        print(
            f"{name}, {workers} at once: {found['per_run']:.3f} s beside each run, {found['once']:.2f} s once; "
            f"{results[name]['share']:.2%} of {STUDY_RUNS} runs of {STUDY_SECONDS:g} s"
        )
    microseconds = telling()
    print(f"a step that is told: {microseconds:.1f} us")
    passed = all(found["share"] < MOST_SHARE for found in results.values())
    return Outcome({**results, "told_step_microseconds": microseconds}, passed)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=4.0, help="of one run")
    parser.add_argument("--workers", type=int, default=2, help="at once, through Ray")
