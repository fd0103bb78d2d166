"""Carrying out the runs of a study: one after the other in this process, or several at once through Ray.

A run is done by a function `execute(job, work_folder) -> dict` that is named by its path, "package.module:name":

- What it returns can be written as JSON, and is the run's result. Whoever calls `execute_all` is alone in writing it.
- Killed, it is called again with the same folder, and goes on from what it left there.
- It makes a `Progress(work_folder)`, tells it each step, and raises `Stopped` soon after `is_stopped` comes true, once
  what it has is in the folder.
"""

from __future__ import annotations

from hyla.study.execution.events import Begun, Event, Failed, Finished, Paused, Retried, Stepped
from hyla.study.execution.execute import Outcome, execute_all
from hyla.study.execution.progress import Progress, Step, Stopped
from hyla.study.execution.protocol import Job

__all__ = [
    "Begun",
    "Event",
    "Failed",
    "Finished",
    "Job",
    "Outcome",
    "Paused",
    "Progress",
    "Retried",
    "Step",
    "Stepped",
    "Stopped",
    "execute_all",
]
