"""What a recipe would do, before it does anything: parameters, FLOPs, bytes and time, on paper."""

from __future__ import annotations

from dataclasses import dataclass

from hyla.cost import count_parameters, train_flops_per_token
from hyla.cost.device import Device
from hyla.cost.training import train_seconds_per_token
from hyla.models.config import ModelConfig
from hyla.models.parameters import model_parameters
from hyla.models.pattern import compress, label
from hyla.train.memory import PaperMemory, memory_on_paper
from hyla.train.run import RunRequest
from hyla.train.sources import batch_sizes

DRAFT_END = 0
"""Stands for the end-of-text id, which the tokenizer decides."""


@dataclass(frozen=True)
class DryRun:
    """Figures of a run."""

    config: ModelConfig
    pattern: str
    parameters: int
    """Modules of multi-token prediction included."""
    active_parameters: int
    """That one token of the trunk meets."""
    tokens: int | None
    """Of the whole run; None where they are not known before the data is read (pairs of answers)."""
    flops_per_token: float
    flops: float | None
    memory: PaperMemory
    step_seconds: float | None
    """By the cost model for a calibrated device; None without one."""


def dry_run(request: RunRequest, device: Device | None = None) -> DryRun:
    """The figures of a request. Reads a config and no data; a tokenizer that is not trained yet counts as full."""
    source, train = request.model, request.train
    config = source.model_config_of(source.draft_vocab_size, DRAFT_END)
    length = min(train.max_document_tokens, train.batch_tokens)
    parameters, active = sum(row.numel for row in model_parameters(config)), count_parameters(config).active
    tokens = None if request.dpo is not None else batch_sizes(train).before(train.steps)
    per_token = train_flops_per_token(config, length)
    seconds = None
    if device is not None:
        again = "all" in train.recompute.kinds
        seconds = train.batch_tokens * train_seconds_per_token(config, length, device, recomputes=again)
    kinds = [label(sublayer.module.kind) for sublayer in config.sublayers]
    return DryRun(
        config=config,
        pattern=compress(kinds),
        parameters=parameters,
        active_parameters=active,
        tokens=tokens,
        flops_per_token=per_token,
        flops=None if tokens is None else per_token * tokens,
        memory=memory_on_paper(config, train),
        step_seconds=seconds,
    )
