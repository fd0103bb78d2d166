"""Bytes of one rank when a model is split: tensor x expert x pipeline x context x data parallel.

- tensor: heads, intermediate channels and the vocabulary are divided; key heads fewer than ranks are copied; latents of
  MLA (and their projections), low-rank gates' first halves, routers, norms and biases are copied.
- expert: whole routed experts are divided among `expert` ranks, taken from the tensor x context x data ranks.
- pipeline: consecutive sublayers, stages of nearly equal weight; embedding on the first, head on the last.
- context: keys and values are divided by position; recurrent states are copied (each rank has the running one).
- data: sequences are divided, weights outside the experts copied.
"""

from __future__ import annotations

from dataclasses import dataclass

from hyla.cost.inventory import Inventory, Matrix, element_bytes, inventory
from hyla.cost.memory import mixer_memory
from hyla.errors import ConfigError
from hyla.models.config import ModelConfig, MoEConfig, SoftmaxConfig, SublayerConfig


@dataclass(frozen=True)
class Split:
    """How many ranks each way."""

    tensor: int = 1
    expert: int | None = None
    """None: as many as there are tensor x context x data ranks."""
    pipeline: int = 1
    context: int = 1
    data: int = 1

    @property
    def num_ranks(self) -> int:
        return self.stage_ranks * self.pipeline

    @property
    def stage_ranks(self) -> int:
        """Ranks of one pipeline stage."""
        return self.tensor * self.context * self.data

    @property
    def expert_ranks(self) -> int:
        """Ranks among which the experts are divided."""
        return self.stage_ranks if self.expert is None else self.expert


@dataclass(frozen=True)
class RankBytes:
    """The heaviest rank of a split."""

    stage: int
    weight_bytes: float
    kv_bytes_per_sequence: float
    state_bytes_per_sequence: float
    num_sequences: int
    """That the rank holds (data parallel ranks share them)."""

    @property
    def cache_bytes(self) -> float:
        return self.num_sequences * (self.kv_bytes_per_sequence + self.state_bytes_per_sequence)

    @property
    def total_bytes(self) -> float:
        return self.weight_bytes + self.cache_bytes


def rank_bytes(
    config: ModelConfig, split: Split, *, context_tokens: int, num_sequences: int = 1, weights: str = "bf16"
) -> RankBytes:
    """The heaviest rank, states as published. Raises ConfigError for a split that the model does not allow."""
    check_split(config, split)
    stages = stage_bounds(config, split.pipeline, weights)
    held = -(-num_sequences // split.data)
    ranks = [
        _stage_bytes(config, split, number, bounds, (context_tokens, held), weights)
        for number, bounds in enumerate(stages)
    ]
    return max(ranks, key=lambda rank: rank.total_bytes)


def check_split(config: ModelConfig, split: Split) -> None:
    """Raise ConfigError unless the heads, experts and sublayers can be divided that way."""
    for name, ranks in vars(split).items():
        if ranks is not None and ranks < 1:
            raise ConfigError(f"{name} = {ranks} ranks: give at least one")
    for mixer in dict.fromkeys(config.mixers):
        for field in ("num_heads", "num_value_heads", "num_key_heads", "num_groups", "num_index_heads"):
            heads = getattr(mixer, field, None)
            if heads and heads % split.tensor:
                raise ConfigError(f"tensor = {split.tensor} does not divide {field} = {heads} of {mixer.kind}")
        kv_heads = getattr(mixer, "num_kv_heads", None)
        if kv_heads and kv_heads % split.tensor and split.tensor % kv_heads:
            raise ConfigError(f"tensor = {split.tensor} neither divides nor is a multiple of num_kv_heads = {kv_heads}")
    _check_experts(config, split)
    if split.pipeline > len(config.sublayers):
        raise ConfigError(f"pipeline = {split.pipeline} stages for {len(config.sublayers)} sublayers; give fewer")


def _check_experts(config: ModelConfig, split: Split) -> None:
    experts, shared = split.expert_ranks, split.stage_ranks
    if shared % experts:
        raise ConfigError(f"expert = {experts} must divide tensor x context x data = {shared}, which hold the experts")
    counts = {sub.module.num_experts for sub in config.sublayers if isinstance(sub.module, MoEConfig)}
    if split.expert is not None and split.expert > 1 and not counts:
        raise ConfigError(f"expert = {experts}: the model has no routed experts")
    for count in counts:
        if count % experts:
            raise ConfigError(f"expert = {experts} does not divide the {count} experts of a layer")


def stage_bounds(config: ModelConfig, num_stages: int, weights: str = "bf16") -> list[tuple[int, int]]:
    """First and last + 1 sublayer of each stage: each ends where its share of the weights is reached."""
    sizes = [inventory(sub, config.hidden_dim).nbytes(weights) for sub in config.sublayers]
    total, bounds, first, passed = sum(sizes), [], 0, 0.0
    for index, size in enumerate(sizes):
        passed += size
        stages_left = num_stages - len(bounds) - 1
        sublayers_left = len(sizes) - index - 1
        is_full = passed >= total * (len(bounds) + 1) / num_stages - size / 2
        if stages_left and (is_full or sublayers_left == stages_left):
            bounds.append((first, index + 1))
            first = index + 1
    return [*bounds, (first, len(sizes))]


def _stage_bytes(config: ModelConfig, split: Split, number: int, bounds, held, weights: str) -> RankBytes:
    context_tokens, num_sequences = held
    hidden, size = config.hidden_dim, element_bytes(weights)
    sublayers = config.sublayers[slice(*bounds)]
    stored = sum(_sublayer_weights(sub, inventory(sub, hidden), split, weights) for sub in sublayers)
    table = config.vocab_size * hidden * size / split.tensor
    stored += table if number == 0 else 0
    stored += table if number == split.pipeline - 1 and not (config.tie_embeddings and split.pipeline == 1) else 0
    caches = [_sublayer_cache(sub, split, context_tokens, size) for sub in sublayers]
    return RankBytes(number, stored, sum(kv for kv, _ in caches), sum(state for _, state in caches), num_sequences)


def _sublayer_weights(sublayer: SublayerConfig, found: Inventory, split: Split, weights: str) -> float:
    whole = sum(_matrix_share(matrix, split.tensor) * matrix.nbytes(weights) for matrix in found.matrices)
    mixer = sublayer.module
    if isinstance(mixer, SoftmaxConfig) and split.tensor > mixer.num_kv_heads:
        columns = mixer.num_kv_heads * (mixer.head_dim + (mixer.value_dim or mixer.head_dim))
        copies = 1 / mixer.num_kv_heads - 1 / split.tensor
        whole += copies * columns / found.matrices[0].out_dim * found.matrices[0].nbytes(weights)
    vectors = found.vectors * element_bytes(weights) + 4 * found.fp32_vectors
    if not found.experts:
        return whole + vectors
    return whole + vectors + found.experts.count / split.expert_ranks * found.experts.nbytes_of_one(weights)


def _matrix_share(matrix: Matrix, tensor: int) -> float:
    """The part of a matrix on one tensor rank."""
    copied = matrix.copied_dim / matrix.out_dim
    return copied + (1 - copied) / tensor


def _sublayer_cache(sublayer: SublayerConfig, split: Split, context_tokens: int, size: int) -> tuple[float, float]:
    """Keys and values, and states, of one sequence on one rank."""
    memory, mixer = mixer_memory(sublayer, size), sublayer.module
    seen = min(context_tokens, memory.window_tokens)
    positions = -(-context_tokens // split.context)
    kv = memory.kv_bytes_per_token * positions + memory.window_kv_bytes_per_token * min(seen, positions)
    heads = getattr(mixer, "num_kv_heads", 1)  # one latent for all heads
    return kv / min(split.tensor, heads), (memory.state_bytes + memory.conv_bytes) / split.tensor
