"""FLOPs and bytes of one forward call, operator by operator.

Two arithmetics, because they cost different things:
- "hyla", this engine's: anchored states (a decoded token reads the anchor and the open rows and writes its own row),
  absorbed MLA everywhere, attention, recurrences and the head in fp32;
- "usual", what other engines run: recurrent decode (the state is read and written at every token), MLA expanded to
  keys and values in prefill and absorbed in decode, all products in the weights' dtype.
The chunk forms of prefill are the same in both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from hyla.cost import formulas
from hyla.cost.memory import mixer_memory
from hyla.cost.parameters import Inventory, distinct, element_bytes, inventory
from hyla.errors import ConfigError
from hyla.models.config import (
    GatedDeltaConfig,
    KDAConfig,
    LightningConfig,
    LinearAttentionConfig,
    Mamba2Config,
    MLAConfig,
    ModelConfig,
    SoftmaxConfig,
    SparseMLAConfig,
    SublayerConfig,
)

Arithmetic = Literal["hyla", "usual"]
ARITHMETICS: tuple[Arithmetic, ...] = ("hyla", "usual")


@dataclass(frozen=True)
class Step:
    """One forward call: `num_sequences` sequences with `length` new tokens each, after `start` earlier ones."""

    num_sequences: int
    start: int
    length: int

    @property
    def num_rows(self) -> int:
        return self.num_sequences * self.length

    @property
    def context_tokens(self) -> int:
        """Of each sequence, the new tokens included."""
        return self.start + self.length

    @property
    def is_decode(self) -> bool:
        return self.length == 1


def prefill(context_tokens: int, num_sequences: int = 1) -> Step:
    """Whole prompts in one call."""
    return Step(num_sequences, 0, context_tokens)


def decode(context_tokens: int, num_sequences: int = 1) -> Step:
    """One token each, which is the context's last one."""
    return Step(num_sequences, context_tokens - 1, 1)


@dataclass(frozen=True)
class Work:
    """What one operator does in a call, over all sublayers of one config."""

    operator: str
    """What limits it: "projection", "experts", "head", "embedding", "elementwise", or the mixer's operator."""
    kind: str
    """Kind of the sublayer that it stands in; "embedding" or "head" outside the stack."""
    flops: float = 0.0
    weight_bytes: float = 0.0
    cache_bytes: float = 0.0
    """Read and written."""
    activation_bytes: float = 0.0
    is_fp32: bool = False
    """Multiplied in fp32 whatever the weights' dtype."""
    calls: float = 1.0
    """Separate runs of the operator: each has the device's overhead."""
    is_decode: bool = False
    """One new row per sequence."""

    @property
    def nbytes(self) -> float:
        return self.weight_bytes + self.cache_bytes + self.activation_bytes

    def times(self, count: int) -> Work:
        """The same in `count` sublayers."""
        return replace(
            self,
            flops=count * self.flops,
            weight_bytes=count * self.weight_bytes,
            cache_bytes=count * self.cache_bytes,
            activation_bytes=count * self.activation_bytes,
            calls=count * self.calls,
        )


@dataclass(frozen=True)
class Setting:
    """How a call is run."""

    step: Step
    weights: str
    """The weights' dtype."""
    arithmetic: Arithmetic

    @property
    def size(self) -> int:
        """Bytes of an activation or of a cached element."""
        return element_bytes(self.weights)

    @property
    def is_ours(self) -> bool:
        return self.arithmetic == "hyla"


def _softmax(config: SoftmaxConfig, at: Setting) -> Iterator[Work]:
    step, value_dim = at.step, config.value_dim or config.head_dim
    flops = formulas.attention.flops(
        step.start, step.length, config.num_heads, config.head_dim, value_dim, config.window
    )
    cached = formulas.attention.decode_bytes(
        step.context_tokens, config.num_kv_heads, config.head_dim, value_dim, at.size, config.window
    )
    written = (step.length - 1) * formulas.attention.cache_bytes_per_token(
        config.num_kv_heads, config.head_dim, value_dim, at.size
    )
    yield _mixer_work("attention", config.kind, flops, cached + written, config.num_heads * (config.head_dim + value_dim), at)


def _mixer_work(operator: str, kind: str, flops: float, cached: float, channels: int, at: Setting) -> Work:
    """flops, cached: of one sequence. channels: activations per row that the operator reads and writes."""
    sequences, size = at.step.num_sequences, 4 if at.is_ours else at.size
    return Work(
        operator,
        kind,
        flops=sequences * flops,
        cache_bytes=sequences * cached,
        activation_bytes=at.step.num_rows * channels * size,
        is_fp32=at.is_ours,
        is_decode=at.step.is_decode,
    )


def _mla_attention(config: MLAConfig, at: Setting) -> Work:
    step, heads = at.step, config.num_heads
    latent, key_dim = config.kv_lora_dim, config.kv_lora_dim + config.rope_dim
    cached = formulas.attention.decode_bytes(step.context_tokens, 1, key_dim, 0, at.size)
    cached += (step.length - 1) * formulas.attention.cache_bytes_per_token(1, key_dim, 0, at.size)
    if at.is_ours or step.is_decode:
        flops = formulas.attention.flops(step.start, step.length, heads, key_dim, latent)
        return _mixer_work("attention", config.kind, flops, cached, heads * (key_dim + latent), at)
    expanded_dim = config.nope_dim + config.rope_dim
    flops = formulas.attention.flops(step.start, step.length, heads, expanded_dim, config.value_dim)
    # Latents of earlier calls are expanded again; those of this call are counted with the projections.
    flops += 2 * step.start * heads * latent * (config.nope_dim + config.value_dim)
    return _mixer_work("attention", config.kind, flops, cached, heads * (2 * expanded_dim + 2 * config.value_dim), at)


def _mla(config: MLAConfig, at: Setting) -> Iterator[Work]:
    yield _mla_attention(config, at)


def _sparse_mla(config: SparseMLAConfig, at: Setting) -> Iterator[Work]:
    step, heads, latent = at.step, config.num_heads, config.kv_lora_dim
    key_dim, index_dim = latent + config.rope_dim, config.index_dim
    index_flops = formulas.sparse.index_flops(step.start, step.length, config.num_index_heads, index_dim)
    index_bytes = (-(-step.context_tokens // formulas.sparse.PAGE) * formulas.sparse.PAGE + step.length) * index_dim
    yield _mixer_work("indexer", config.kind, index_flops, index_bytes * at.size, config.num_index_heads * index_dim, at)
    flops = formulas.sparse.attention_flops(step.start, step.length, heads, key_dim, latent, config.num_selected)
    both = formulas.sparse.decode_bytes(step.context_tokens, index_dim, key_dim, config.num_selected, at.size)
    cached = both - (index_bytes - (step.length - 1) * index_dim) * at.size
    if not step.is_decode:  # rows share the keys that they select
        cached = (step.context_tokens + step.length) * key_dim * at.size
    yield _mixer_work("attention", config.kind, flops, cached, heads * (key_dim + latent), at)


def _recurrent(operator: str, sublayer_config, at: Setting, *, dims: dict, extra: dict, conv: tuple[int, int]) -> Work:
    """extra: what the chunk formulas take beside `dims`; conv: channels and taps of the short convolution."""
    cost, step = getattr(formulas, operator), at.step
    channels, taps = conv
    conv_flops = step.length * formulas.short_conv.flops_per_token(channels, taps) if channels else 0
    conv_bytes = formulas.short_conv.decode_bytes_per_sequence(channels, taps, at.size)
    if step.is_decode and not at.is_ours:
        flops, cached = cost.recurrent_flops_per_token(**dims), 2 * cost.state_bytes(**dims)
    elif step.is_decode:
        flops, cached = cost.flops_per_token(**dims, **extra), cost.decode_bytes_per_token(**dims, **extra)
    else:
        flops = step.length * cost.flops_per_token(**dims, **extra)
        cached = cost.state_bytes(**dims) * (2 if step.start else 1)
    heads = dims.get("num_heads") or dims["num_value_heads"]
    read = max(channels, heads * (2 * dims["key_dim"] + dims["value_dim"]))
    return _mixer_work(
        operator, sublayer_config.kind, flops + conv_flops, cached + conv_bytes, read + heads * dims["value_dim"], at
    )


def _gated_delta(config: GatedDeltaConfig, at: Setting) -> Iterator[Work]:
    dims = {"num_value_heads": config.num_value_heads, "key_dim": config.key_dim, "value_dim": config.value_dim}
    channels = 2 * config.num_key_heads * config.key_dim + config.num_value_heads * config.value_dim
    extra = {"num_key_heads": config.num_key_heads}
    yield _recurrent("gated_delta", config, at, dims=dims, extra=extra, conv=(channels, config.conv_len))


def _kda(config: KDAConfig, at: Setting) -> Iterator[Work]:
    dims = {"num_heads": config.num_heads, "key_dim": config.key_dim, "value_dim": config.value_dim}
    channels = config.num_heads * (2 * config.key_dim + config.value_dim)
    yield _recurrent("kda", config, at, dims=dims, extra={}, conv=(channels, config.conv_len))


def _lightning(config: LightningConfig, at: Setting) -> Iterator[Work]:
    dims = {"num_heads": config.num_heads, "key_dim": config.head_dim, "value_dim": config.head_dim}
    yield _recurrent("lightning", config, at, dims=dims, extra={}, conv=(0, 0))


def _mamba2(config: Mamba2Config, at: Setting) -> Iterator[Work]:
    dims = {"num_heads": config.num_heads, "key_dim": config.state_dim, "value_dim": config.head_dim}
    channels = config.num_heads * config.head_dim + 2 * config.num_groups * config.state_dim
    extra = {"num_groups": config.num_groups}
    yield _recurrent("ssd", config, at, dims=dims, extra=extra, conv=(channels, config.conv_len))


def _linear(config: LinearAttentionConfig, at: Setting) -> Iterator[Work]:
    dims = {"num_heads": config.num_heads, "key_dim": config.key_dim, "value_dim": config.value_dim}
    yield _recurrent("linear", config, at, dims=dims, extra={}, conv=(0, 0))


MIXERS: dict[str, Callable[..., Iterator[Work]]] = {
    "softmax": _softmax,
    "mla": _mla,
    "sparse_mla": _sparse_mla,
    "gated_delta": _gated_delta,
    "kda": _kda,
    "lightning": _lightning,
    "mamba2": _mamba2,
    "linear": _linear,
}
"""By kind: the operators of one sublayer, beside its projections."""


def _projection_work(found: Inventory, kind: str, at: Setting) -> Iterator[Work]:
    """The products with weights, in groups of one precision. Vectors are read with them."""
    ours_in_fp32 = [matrix for matrix in found.matrices if matrix.is_fp32 or (at.is_ours and matrix.count > 1)]
    plain = [matrix for matrix in found.matrices if matrix not in ours_in_fp32]
    vectors = found.vectors * at.size + 4 * found.fp32_vectors
    for matrices, is_fp32, beside in ((plain, False, vectors), (ours_in_fp32, True, 0)):
        if matrices:
            channels = sum(matrix.count * (matrix.in_dim + matrix.out_dim) for matrix in matrices)
            numel = sum(matrix.numel for matrix in matrices)
            stored = 4 * numel if is_fp32 else sum(matrix.nbytes(at.weights) for matrix in matrices)
            yield Work(
                "projection",
                kind,
                flops=2 * at.step.num_rows * numel,
                weight_bytes=stored + beside,
                activation_bytes=at.step.num_rows * channels * (4 if is_fp32 else at.size),
                is_fp32=is_fp32,
                calls=len(matrices),
                is_decode=at.step.is_decode,
            )


def _experts_work(found: Inventory, kind: str, at: Setting) -> Work:
    experts, rows = found.experts, at.step.num_rows
    touched = formulas.moe.expected_experts_read(rows, experts.count, experts.visited)
    flops = formulas.moe.expert_flops_per_token(
        experts.row_dim, experts.visited, experts.expert_dim, num_matrices=experts.num_matrices
    )
    width = 2 * experts.row_dim + experts.num_matrices * experts.expert_dim
    return Work(
        "experts",
        kind,
        flops=rows * flops,
        weight_bytes=touched * experts.nbytes_of_one(at.weights),
        activation_bytes=rows * experts.visited * width * at.size,
        calls=touched if at.is_ours else 2.0,
        is_decode=at.step.is_decode,
    )


def sublayer_work(sublayer: SublayerConfig, hidden_dim: int, at: Setting) -> Iterator[Work]:
    """All operators of one sublayer."""
    found, kind = inventory(sublayer, hidden_dim), sublayer.module.kind
    yield from _projection_work(found, kind, at)
    if found.experts:
        yield _experts_work(found, kind, at)
    if kind in MIXERS:
        yield from MIXERS[kind](sublayer.module, at)
    # The norm reads the stream and writes its rows; the sum reads both and writes the stream.
    moved = 5 * at.step.num_rows * hidden_dim * at.size
    yield Work("elementwise", kind, activation_bytes=moved, is_decode=at.step.is_decode)


@lru_cache(maxsize=4096)
def step_work(
    config: ModelConfig, step: Step, *, weights: str = "bf16", arithmetic: Arithmetic = "usual"
) -> tuple[Work, ...]:
    """One forward call of a model. The head computes the logits of each sequence's last row only."""
    if arithmetic not in ARITHMETICS:
        raise ConfigError(f"unknown arithmetic {arithmetic!r}; there are {', '.join(ARITHMETICS)}")
    at = Setting(step, weights, arithmetic)
    hidden, rows = config.hidden_dim, step.num_sequences
    copied = 2 * step.num_rows * hidden * at.size
    works = [Work("embedding", "embedding", activation_bytes=copied, is_decode=step.is_decode)]
    for sublayer, count in distinct(config.sublayers).items():
        works += [work.times(count) for work in sublayer_work(sublayer, hidden, at)]
    head_size = 4 if at.is_ours else at.size
    works.append(
        Work(
            "head",
            "head",
            flops=2 * rows * hidden * config.vocab_size,
            weight_bytes=hidden * config.vocab_size * head_size,
            activation_bytes=rows * (hidden * head_size + 4 * config.vocab_size),
            is_fp32=at.is_ours,
        )
    )
    return tuple(works)


def total_flops(works: Iterable[Work]) -> float:
    """Of some operators."""
    return sum(work.flops for work in works)


def total_bytes(works: Iterable[Work]) -> float:
    """Weights, caches and activations of some operators."""
    return sum(work.nbytes for work in works)


def arithmetic_intensity(works: Iterable[Work]) -> float:
    """FLOPs per byte."""
    works = tuple(works)
    return total_flops(works) / total_bytes(works)


def by_kind(works: Iterable[Work]) -> dict[str, tuple[float, float]]:
    """FLOPs and bytes of each kind of sublayer, in order of appearance."""
    sums: dict[str, tuple[float, float]] = {}
    for work in works:
        flops, nbytes = sums.get(work.kind, (0.0, 0.0))
        sums[work.kind] = (flops + work.flops, nbytes + work.nbytes)
    return sums


def decoded_cache_bytes(config: ModelConfig, context_tokens: int, *, weights: str, arithmetic: Arithmetic) -> float:
    """Cache bytes that one decoded token of one sequence reads and writes."""
    works = step_work(config, decode(context_tokens), weights=weights, arithmetic=arithmetic)
    return sum(work.cache_bytes for work in works)


__all__ = [
    "ARITHMETICS",
    "Arithmetic",
    "Step",
    "Work",
    "arithmetic_intensity",
    "by_kind",
    "decode",
    "decoded_cache_bytes",
    "mixer_memory",
    "prefill",
    "step_work",
    "sublayer_work",
    "total_bytes",
    "total_flops",
]
