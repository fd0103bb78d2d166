"""How an engine is set up."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, field_validator

from hyla.models.config import Config, Count


class EngineOptions(Config):
    """Frozen; unknown names and wrong values are `ConfigError`s."""

    dtype: Literal["float32", "bfloat16"] | None = None
    """Of the weights of a folder that is loaded; None: as stored."""
    revision: str | None = None
    """Branch, tag or commit of a model that is given by its name on the hub."""
    device: str = "cpu"
    """Where a folder is loaded to, as PyTorch names devices."""
    memory: Annotated[int, Field(ge=1)] | None = None
    """Bytes for caches. None: a quarter of what is free, at most 4 GiB, and never more than `max_num_sequences` whole
    contexts need."""
    max_num_sequences: Count = 32
    """Most sequences computed at once; others wait. More raises throughput and the time per token."""
    prefill_chunk: Count = 512
    """Most prompt tokens of one sequence in one step. Smaller: running answers stall less while a prompt is read."""
    max_batch_tokens: Count = 1024
    """Most tokens of one step, over all sequences."""
    max_queued_requests: Count | None = None
    """Most requests that wait for a slot; more are refused with `Overloaded`. None: no limit."""
    max_queued_tokens: Count | None = None
    """Most tokens of the requests that wait for a slot; an empty queue takes one of any length. None: no limit."""
    context_len: Count | None = None
    """Longest prompt and answer together, in tokens. None: what the model is declared for."""
    pack: bool = True
    """Put the weights into the CPU library's layout. A model object given to the engine is changed in place (its plain
    weights are gone until `model.unpack()`); False leaves it as it is, and is slower."""

    @field_validator("dtype", mode="before")
    @classmethod
    def _name(cls, dtype):
        return str(dtype).removeprefix("torch.") if isinstance(dtype, torch.dtype) else dtype
