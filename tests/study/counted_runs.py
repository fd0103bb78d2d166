"""Runs that only count, for what carries runs out: `count` and others are named by their path, "counted_runs:count"."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from hyla.errors import ConfigError
from hyla.study.execution import Progress, Stopped


@dataclass(frozen=True)
class Counting:
    """name: of the run. steps: that it counts. pause: seconds of one. fault: at which step `misbehave` does."""

    name: str
    steps: int = 5
    pause: float = 0.0
    fault: int = 3

    @property
    def told(self):
        return f"counting {self.name}"


def counted(work):
    """Lines that were written: one a step, by which process."""
    file = work / "steps"
    return file.read_text().split() if file.exists() else []


def count(job, work, at_step=lambda step: None):
    """Step after step, each one kept at once."""
    progress = Progress(work)
    for step in range(len(counted(work)), job.steps):
        if progress.is_stopped():
            raise Stopped
        at_step(step)
        time.sleep(job.pause)
        with (work / "steps").open("a") as file:
            file.write(f"{os.getpid()}\n")
        progress.tell(step + 1, job.steps, 100 * (step + 1))
    return {"run": job.name, "steps": counted(work), "seconds": 2.0, "evaluation_seconds": 0.5}


def misbehave(job, work):
    """Counts, except those whose name begins with "bad"."""

    def fail(step):
        if step == job.fault:
            raise ValueError(f"no step {step}\n  of this run")

    return count(job, work, fail if job.name.startswith("bad") else lambda step: None)


def ask_for_nothing(job, work):
    """Counts, except that a run called "bad" cannot be."""

    def refuse(step):
        if step == job.fault:
            raise ConfigError("the text has changed")

    return count(job, work, refuse if job.name == "bad" else lambda step: None)


def die_once(job, work):
    """The process of a run called "bad" is killed once, at a step."""
    mark = work.parent.parent / f"{job.name}.died"

    def die(step):
        if step == job.fault and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    return count(job, work, die if job.name.startswith("bad") else lambda step: None)


def interrupt(job, work):
    """As if Ctrl-C came while a run called "bad" counts, once."""

    def stop(step):
        mark = work.parent / "interrupted"
        if job.name == "bad" and step == job.fault and not mark.exists():
            mark.touch()
            raise KeyboardInterrupt

    return count(job, work, stop)


def give_up(job, work):
    """Stops, though nobody asked."""
    raise Stopped


def say_nothing(job, work):
    return None


def say_a_path(job, work):
    return {"file": Path("here")}


def say_threads(job, work):
    """What the process computes with; it and its fellow are there at the same time, or it fails."""
    import torch

    meeting = work.parent.parent / "meeting"
    meeting.mkdir(exist_ok=True)
    (meeting / job.name).touch()
    deadline = time.monotonic() + 60
    while len(list(meeting.iterdir())) < 2:
        if time.monotonic() > deadline:
            raise TimeoutError("it is alone")
        time.sleep(0.05)
    return {"threads": torch.get_num_threads(), "process": os.getpid()}
