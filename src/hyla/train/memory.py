"""What a run needs in memory: on paper before it starts, and as it was when it is over."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from hyla.cost import training_memory
from hyla.layers.parameters import Table
from hyla.models.config import ModelConfig
from hyla.models.parameters import model_parameters
from hyla.train.config import TrainConfig
from hyla.train.memory_use import memory_use

CLEAR_REFS = Path("/proc/self/clear_refs")
FORGET_PEAK = "5"
"""Sets the largest resident size to the present one (Linux, proc(5))."""


@dataclass(frozen=True)
class PaperMemory:
    """Bytes of one process, by arithmetic."""

    rows: int
    """Of the largest forward pass."""
    weight_bytes: int
    """Of the model, as it computes, and in a bf16 run of the fp32 weights behind it."""
    gradient_bytes: int
    optimizer_bytes: int
    average_bytes: int
    activation_bytes: float
    """What the backward pass of the largest forward pass reads, by the cost model, recomputation counted."""
    loss_bytes: int
    """Logits that live at once, and their gradient."""

    @property
    def bytes(self) -> float:
        """All of it together."""
        return self.weight_bytes + self.average_bytes + self.step_bytes

    @property
    def step_bytes(self) -> float:
        """What is there at most from the first step on, and was not before."""
        return self.gradient_bytes + self.optimizer_bytes + self.activation_bytes + self.loss_bytes


def memory_on_paper(config: ModelConfig, train: TrainConfig) -> PaperMemory:
    """Of a run of this model. Figures of weights are exact, all trained; those of activations are the cost model's."""
    length = min(train.max_document_tokens, train.batch_tokens)
    rows = min(train.micro_batch_tokens or train.batch_tokens, train.batch_tokens)
    memory, table = training_memory(config, length), model_parameters(config)
    total = sum(row.numel for row in table)
    kept = memory.recomputed_activation_bytes if "all" in train.recompute.kinds else memory.activation_bytes
    factor = 2 if train.dtype == "fp32" else 1  # the cost model's activations have 16 bits
    return PaperMemory(
        rows=rows,
        weight_bytes=_weight_bytes(table, train),
        gradient_bytes=4 * total,
        optimizer_bytes=_optimizer_bytes(table, train),
        average_bytes=4 * total if train.average is not None else 0,
        activation_bytes=factor * kept * rows / length,
        loss_bytes=8 * min(train.loss_rows, rows) * config.vocab_size,
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


class PeakWatch:
    """How far memory rises over what was there when it began."""

    def __init__(self, device: torch.device):
        self._device = device
        self._before = memory_use(device) if _forget_peak(device) else None

    def grown(self) -> int | None:
        """Bytes so far, at most; None where the system does not say it."""
        now = memory_use(self._device)
        return None if self._before is None or now is None else now.peak - self._before.now


def _forget_peak(device: torch.device) -> bool:
    """Start anew with the largest size; whether that was possible."""
    if device.type != "cpu":
        module = getattr(torch, device.type, None)
        if module is None or not hasattr(module, "reset_peak_memory_stats"):
            return False
        module.reset_peak_memory_stats(device)
        return True
    try:
        CLEAR_REFS.write_text(FORGET_PEAK)
    except OSError:
        return False
    return True


@dataclass(frozen=True)
class MeasuredMemory:
    """What the steps of a run took, beside what they take on paper: bytes for each row of the largest pass."""

    rows: int
    measured_bytes: int
    """The most that memory rose over what was there before the first step: gradients, the optimizer's memory, logits,
    activations, and whatever the process fetched besides."""
    paper: PaperMemory

    @property
    def bytes_per_token(self) -> float:
        return self.measured_bytes / self.rows

    def record(self) -> dict:
        """For memory.json."""
        return {"bytes_per_token": self.bytes_per_token, **asdict(self)}

    def __str__(self) -> str:
        paper, rows = self.paper, self.rows
        parts = {
            "activations": paper.activation_bytes,
            "logits": paper.loss_bytes,
            "gradients": paper.gradient_bytes,
            "optimizer": paper.optimizer_bytes,
        }
        told = ", ".join(f"{name} {count / rows / 1024:.1f}" for name, count in parts.items())
        return (
            f"a pass of {rows:,} tokens and its step took at most {self.bytes_per_token / 1024:.1f} KiB a token over "
            f"what was there before; on paper {paper.step_bytes / rows / 1024:.1f}: {told}"
        )
