"""What a recipe would do, before it does anything: parameters, FLOPs, bytes and time, on paper."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from hyla.cost import count_parameters, train_flops_per_token, training_memory
from hyla.cost.device import Device
from hyla.cost.training import train_seconds_per_token
from hyla.layers.parameters import Table
from hyla.models.config import ModelConfig
from hyla.models.parameters import model_parameters
from hyla.models.pattern import compress, label
from hyla.train.config import TrainConfig
from hyla.train.loop import batch_sizes
from hyla.train.run import RunRequest

DRAFT_END = 0
"""Stands for the end-of-text id, which the tokenizer decides."""


@dataclass(frozen=True)
class DryRun:
    """Figures of a run. Bytes are of one process."""

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
    weight_bytes: int
    """Of the model, as it computes, and in a bf16 run of the fp32 weights behind it."""
    gradient_bytes: int
    optimizer_bytes: int
    average_bytes: int
    activation_bytes: float
    """What the backward pass of the largest forward pass reads, by the cost model, recomputation counted."""
    loss_bytes: int
    """Logits that live at once, and their gradient."""
    step_seconds: float | None
    """By the cost model for a calibrated device; None without one."""

    @property
    def bytes(self) -> float:
        """All of it together."""
        fixed = self.weight_bytes + self.gradient_bytes + self.optimizer_bytes + self.average_bytes
        return fixed + self.activation_bytes + self.loss_bytes


def dry_run(request: RunRequest, device: Device | None = None) -> DryRun:
    """The figures of a request. Reads a config and no data; a tokenizer that is not trained yet counts as full."""
    source, train = request.model, request.train
    config = source.model_config_of(source.draft_vocab_size, DRAFT_END)
    length = min(train.max_document_tokens, train.batch_tokens)
    table = model_parameters(config)
    parameters, active = sum(row.numel for row in table), count_parameters(config).active
    tokens = None if request.dpo is not None else batch_sizes(train).before(train.steps)
    per_token = train_flops_per_token(config, length)
    rows = min(train.micro_batch_tokens or train.batch_tokens, train.batch_tokens)
    memory = training_memory(config, length)
    kept = memory.recomputed_activation_bytes if "all" in train.recompute.kinds else memory.activation_bytes
    factor = 2 if train.dtype == "fp32" else 1  # the cost model's activations have 16 bits
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
        weight_bytes=_weight_bytes(table, train),
        gradient_bytes=4 * parameters,
        optimizer_bytes=_optimizer_bytes(table, train),
        average_bytes=4 * parameters if train.average is not None else 0,
        activation_bytes=factor * kept * rows / length,
        loss_bytes=8 * min(train.loss_rows, rows) * config.vocab_size,
        step_seconds=seconds,
    )


def _weight_bytes(table: Table, train: TrainConfig) -> int:
    sizes = Counter(fp32=sum(row.numel for row in table))
    sizes["bf16"] = 0 if train.dtype == "fp32" else sum(row.numel for row in table if not row.is_fp32)
    return 4 * sizes["fp32"] + 2 * sizes["bf16"]


def _optimizer_bytes(table: Table, train: TrainConfig) -> int:
    """Two moments of AdamW, one of Muon."""
    each = 4 if train.state_dtype == "fp32" else 2
    matrices = sum(row.numel for row in table if row.muon is not None) if train.optimizer == "muon" else 0
    return each * (matrices + 2 * (sum(row.numel for row in table) - matrices))
