"""The learning rate of a step: warm-up, then constant and a decay (WSD), or a cosine."""

from __future__ import annotations

import math

from hyla.train.config import TrainConfig


def rate_factor(step: int, config: TrainConfig) -> float:
    """Share of the peak rate that optimizer step `step` (0-based) uses; in (0, 1]."""
    warmup_steps = round(config.steps * config.warmup_fraction)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    floor, steps_left = config.final_rate_fraction, config.steps - step
    if config.schedule == "cosine":
        done = (step - warmup_steps) / max(1, config.steps - 1 - warmup_steps)
        return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * done))
    decay_steps = round(config.steps * config.decay_fraction)
    if steps_left > decay_steps:
        return 1.0
    return floor + (1.0 - floor) * steps_left / (decay_steps + 1)
