"""What training costs: FLOPs per token with each mixer's own accounting, hours, and memory."""

from __future__ import annotations

from dataclasses import dataclass

from hyla.cost.call import Arithmetic, Work, prefill
from hyla.cost.device import Device
from hyla.cost.inventory import Inventory, inventory
from hyla.cost.memory import mixer_memory
from hyla.cost.parameters import count_parameters, distinct
from hyla.cost.roofline import work_seconds
from hyla.cost.work import step_work
from hyla.errors import ConfigError
from hyla.grid import CHUNK
from hyla.models.config import ModelConfig, SublayerConfig
from hyla.models.kinds import RECURRENT_OPERATORS

PASSES = {"attention": 3.5, "indexer": 1.0, **dict.fromkeys(RECURRENT_OPERATORS, 4.0)}
"""Forward passes that an operator's forward and backward run: 3 (two products per product) unless it recomputes.
Attention recomputes its scores: 2.5 in the backward pass (FlashAttention 2, arXiv 2307.08691). The recurrences keep
inputs and anchors and recompute the rest: 1 + 1 + 2. The indexer's selection is a constant: no backward pass."""
MODEL_PASSES = 3.0
STATE_BYTES_PER_PARAMETER = 18.0
"""16-bit weight; fp32 master weight, gradient and two moments of AdamW: 2 + 4 + 4 + 8."""
SECONDS_PER_HOUR = 3600.0


def forward_works(config: ModelConfig, length: int, arithmetic: Arithmetic = "usual") -> tuple[Work, ...]:
    """One training sequence, forward, with the logits of every row."""
    works = step_work(config, prefill(length), arithmetic=arithmetic)
    head = works[-1]
    row_bytes = head.activation_bytes * length
    whole = Work("head", "head", head.flops * length, head.weight_bytes, 0.0, row_bytes, head.is_fp32)
    return (*works[:-1], whole)


def forward_flops_per_token(config: ModelConfig, length: int, arithmetic: Arithmetic = "usual") -> float:
    """Mean over a sequence of that length."""
    return sum(work.flops for work in forward_works(config, length, arithmetic)) / length


def train_flops_per_token(config: ModelConfig, length: int, arithmetic: Arithmetic = "usual") -> float:
    """Forward and backward without any recomputation, the figure that budgets and utilisation are stated in."""
    return (
        sum(
            work.flops * (1.0 if work.operator == "indexer" else MODEL_PASSES)
            for work in forward_works(config, length, arithmetic)
        )
        / length
    )


def executed_flops_per_token(
    config: ModelConfig, length: int, *, recomputes: bool = False, arithmetic: Arithmetic = "usual"
) -> float:
    """What the device runs: operators' own recomputation, and with `recomputes` every sublayer forward once more."""
    total = 0.0
    for work in forward_works(config, length, arithmetic):
        total += work.flops * _passes(work, recomputes)
    return total / length


def _passes(work: Work, recomputes: bool) -> float:
    again = 1.0 if recomputes and work.operator not in ("head", "embedding") else 0.0
    return PASSES.get(work.operator, MODEL_PASSES) + again


def tokens_for_budget(config: ModelConfig, length: int, budget_flops: float) -> float:
    """Training tokens that a FLOP budget buys."""
    if not budget_flops > 0:
        raise ConfigError(f"a budget of {budget_flops!r} FLOPs buys nothing; give a positive number")
    return budget_flops / train_flops_per_token(config, length)


def train_seconds_per_token(
    config: ModelConfig, length: int, device: Device, num_devices: int = 1, *, recomputes: bool = False
) -> float:
    """At the rates of the roofline, with perfect scaling over the devices and weights read once per sequence."""
    seconds = 0.0
    for work in forward_works(config, length, device.arithmetic):
        seconds += work_seconds(work, device, "bf16", num_devices)[0] * _passes(work, recomputes)
    return seconds / length


def train_hours(
    config: ModelConfig, length: int, tokens: float, device: Device, num_devices: int = 1, *, recomputes: bool = False
) -> float:
    """Wall time of a run of so many tokens."""
    per_token = train_seconds_per_token(config, length, device, num_devices, recomputes=recomputes)
    return tokens * per_token / SECONDS_PER_HOUR


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes over all devices, without sharding. Activations: of one sequence."""

    weights_and_optimizer_bytes: float
    activation_bytes: float
    recomputed_activation_bytes: float
    """Only the stream before each sublayer is kept, and one sublayer's activations at a time."""
    logit_bytes: float
    """fp32 logits and their gradient, of all rows at once."""


def training_memory(config: ModelConfig, length: int) -> TrainingMemory:
    """Memory of a run with AdamW and 16-bit activations."""
    stream = 2 * length * config.hidden_dim
    kept = [
        (count, _kept_bytes(sublayer, inventory(sublayer, config.hidden_dim), length) + stream)
        for sublayer, count in distinct(config.sublayers).items()
    ]
    return TrainingMemory(
        weights_and_optimizer_bytes=STATE_BYTES_PER_PARAMETER * count_parameters(config).total,
        activation_bytes=sum(count * each for count, each in kept),
        recomputed_activation_bytes=len(config.sublayers) * stream + max(each for _, each in kept),
        logit_bytes=8.0 * length * config.vocab_size,
    )


def _kept_bytes(sublayer: SublayerConfig, found: Inventory, length: int) -> float:
    """What the backward pass of one sublayer reads, beside the stream: each product's input, each operator's inputs."""
    inputs = sum(matrix.count * matrix.in_dim for matrix in found.matrices)
    # A mixer's operator reads what its first products wrote; an MLP's activation, gate and up.
    outputs = sum(matrix.count * matrix.out_dim for matrix in found.matrices[:-1] if not matrix.is_fp32)
    per_row = inputs + outputs
    if found.experts:
        experts = found.experts
        per_row += experts.visited * (experts.row_dim + experts.num_matrices * experts.expert_dim)
    anchors = mixer_memory(sublayer).state_bytes * -(-length // CHUNK) if sublayer.is_mixer else 0
    return 2 * length * per_row + anchors
