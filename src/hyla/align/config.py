"""What a measurement samples, and how much of it is looked at layer by layer."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field, field_validator

from hyla.models.config import Config, Count


class AlignConfig(Config):
    """Frozen; the flags of `hyla align` are made from it."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    prompts: Count = 16
    """Prompts to answer; where there are fewer, they are taken again with other seeds."""
    turns: Count = 2
    """Answers to each: every one after the first goes on where the one before it ended, from the prefix cache."""
    max_tokens: Count = 64
    """Longest answer, in tokens."""
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.7
    """Of the distribution that is sampled from and scored."""
    seed: Annotated[int, Field(ge=0, lt=1 << 31)] = 0
    """Of all noise: of sampling, and of states that are rounded by chance."""
    tapped: Annotated[int, Field(ge=0)] = 4
    """So many prompts are compared layer by layer, too, as far as 512 MiB hold them. 0: none."""

    greedy: bool = True
    """Let each way write the likeliest continuation of each prompt, too: where it parts from the exact engine's, and
    how fast it comes."""

    @field_validator("temperature")
    @classmethod
    def _has_logprobs(cls, temperature: float) -> float:
        from hyla.ops.exact.temperatures import LEAST_TEMPERATURE, MOST_TEMPERATURE

        if not LEAST_TEMPERATURE <= temperature <= MOST_TEMPERATURE:
            raise ValueError(f"must be from {LEAST_TEMPERATURE:g} to {MOST_TEMPERATURE:g}")
        return temperature
