"""One run of a study: one arm learns text and tasks with a budget of FLOPs, and is scored."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from hyla.errors import ConfigError, DivergedError
from hyla.models.initialize import initialize
from hyla.models.trunk import Model
from hyla.study.execution.progress import Progress, Stopped
from hyla.study.machine import machine
from hyla.study.mixture import StudySource
from hyla.study.results import LanguageFigures
from hyla.study.run_key import LanguageRun, text_of
from hyla.study.scores import cache_bytes, scored
from hyla.train.loop import Trainer
from hyla.train.metrics import StepMetrics

CURVE_POINTS = 40
DIVERGED = {"validation_bits": None, "test_bits": None}
"""Scores of a run that has none."""


def execute(run: LanguageRun, work: Path) -> dict[str, Any]:
    """Train and score; goes on where a killed one was, if `work` is its folder (`study.execution`).

    Returns the result as it is written: `run` and the fields of `LanguageFigures`. Raises ConfigError where the text is
    another one than the key's, and Stopped where it was asked to stop.
    """
    work.mkdir(parents=True, exist_ok=True)
    text = text_of(run)
    if text.digest != run.data:
        raise ConfigError(f"the text has changed: its digest is {text.digest}, and this run wants {run.data}")
    trainer = trainer_of(run, work)
    trainer.resume()
    progress = Progress(work)
    try:
        trainer.run(lambda line: progress.tell(line.step, run.steps, line.tokens), progress.is_stopped)
    except DivergedError:  # a result, too: of a rate that is too high
        return _result(run, trainer, DIVERGED)
    if trainer.finished_steps < run.steps:
        raise Stopped
    scores = scored(run, trainer.model, text)
    if not (math.isfinite(scores["validation_bits"]) and math.isfinite(scores["test_bits"])):
        return _result(run, trainer, DIVERGED)  # its last step spoilt the weights
    return _result(run, trainer, scores)


def trainer_of(run: LanguageRun, work: Path, steps: int | None = None) -> Trainer:
    """Of a run that begins. steps: of it; None: what its budget buys."""
    source = StudySource(
        text_of(run).train, run.tasks, run.task_examples, tokens=run.batch_tokens, length=run.length, seed=run.seed
    )
    model = initialize(Model(run.model_config_made), run.seed)
    return Trainer(model, source, run.train_config(steps or run.steps), work)


def _result(run: LanguageRun, trainer: Trainer, scores: dict[str, Any]) -> dict[str, Any]:
    figures = LanguageFigures(
        flops=run.flops,
        steps=run.steps,
        tokens=run.tokens,
        parameters=sum(parameter.numel() for parameter in trainer.model.parameters()),
        curve=_curve(trainer.metrics.read()),
        seconds=trainer.seconds,
        machine=machine(),
        cache_bytes=cache_bytes(trainer.model),
        **scores,
    )
    # Without the folder of the text: it is of this machine, and files go elsewhere.
    return {"run": run.model_dump(mode="json", exclude={"text"}), **figures.model_dump(mode="json")}


def _curve(lines: list[StepMetrics]) -> tuple[tuple[int, int, float | None], ...]:
    """Means over equal stretches of the run."""
    every = max(1, -(-len(lines) // CURVE_POINTS))
    found = []
    for first in range(0, len(lines), every):
        part = lines[first : first + every]
        loss = sum(line.loss for line in part) / len(part)
        found.append((part[-1].step, part[-1].tokens, loss if math.isfinite(loss) else None))
    return tuple(found)
