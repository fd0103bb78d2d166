"""Runs of a synthetic study, as `study.execution` carries them out."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hyla.evals.synthetic.learning import learnt
from hyla.evals.synthetic.plan import Run
from hyla.study.execution.progress import Progress, Stopped
from hyla.study.machine import machine


def execute(run: Run, work: Path) -> dict[str, Any]:
    """Learn one task; goes on where a killed run was, if `work` is its folder. Raises Stopped where it was asked to."""
    work.mkdir(parents=True, exist_ok=True)
    progress = Progress(work)
    result = learnt(
        run,
        work,
        on_step=lambda line: progress.tell(line.step, run.steps, line.tokens),
        is_stopped=progress.is_stopped,
    )
    if result is None:
        raise Stopped
    return {"run": run.model_dump(mode="json"), **asdict(replace(result, machine=machine()))}
