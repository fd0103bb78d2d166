"""A time budget as a number of steps: measured once, on a throw-away copy, before the run starts."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from hyla.models.trunk import Model
from hyla.ops.devices import synchronize
from hyla.train.config import TrainConfig
from hyla.train.loop import Trainer
from hyla.train.sources import RowSource

WARMUP_STEPS, TIMED_STEPS = 2, 4
MIN_STEPS = 8


def steps_for(minutes: float, model: Model, source: RowSource, config: TrainConfig) -> tuple[int, float]:
    """(steps that fit into the time, seconds of one step). Trains `model`, so give it a copy of its own.

    The first steps are not timed: they check row counts, allocate and warm caches.
    """
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(model, source, config, Path(folder))
        seconds = []
        for step in range(WARMUP_STEPS + TIMED_STEPS):
            started = time.perf_counter()
            trainer.update(step)
            synchronize(model.device)
            seconds.append(time.perf_counter() - started)
    step_seconds = statistics.median(seconds[WARMUP_STEPS:])
    return max(MIN_STEPS, int(minutes * 60.0 / step_seconds)), step_seconds
