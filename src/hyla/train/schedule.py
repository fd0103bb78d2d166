"""The learning rate of a step: warm-up, constant, decay (WSD)."""

from __future__ import annotations

from hyla.train.config import TrainConfig


def rate_factor(step: int, config: TrainConfig) -> float:
    """Share of the peak rate that optimizer step `step` (0-based) uses; in (0, 1]."""
    warmup_steps = round(config.steps * config.warmup_fraction)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    decay_steps = round(config.steps * config.decay_fraction)
    steps_left = config.steps - step
    if steps_left > decay_steps:
        return 1.0
    floor = config.final_rate_fraction
    return floor + (1.0 - floor) * steps_left / (decay_steps + 1)
