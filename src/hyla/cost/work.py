"""FLOPs and bytes of one forward call, operator by operator.

Two arithmetics, because they cost different things:
- "hyla", this engine's: anchored states (a decoded token reads the anchor and the open rows and writes its own row),
  absorbed MLA everywhere, attention, recurrences and the head in fp32 (its weights are read as they are stored);
- "usual", what other engines run: recurrent decode (the state is read and written at every token), MLA expanded to
  keys and values in prefill and absorbed in decode, all products in the weights' dtype.
The chunk forms of prefill are the same in both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hyla.cost.call import ARITHMETICS, Arithmetic, Setting, Step, Work, decode, prefill
from hyla.cost.formulas import moe
from hyla.cost.inventory import Experts, Inventory, inventory
from hyla.cost.operator_work import operator_work
from hyla.cost.parameters import distinct
from hyla.errors import ConfigError
from hyla.models.config import ModelConfig, SublayerConfig


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


def _experts_work(experts: Experts, kind: str, at: Setting) -> Work:
    rows = at.step.num_rows
    touched = moe.expected_experts_read(rows, experts.count, experts.visited)
    flops = moe.expert_flops_per_token(
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
        yield _experts_work(found.experts, kind, at)
    yield from operator_work(sublayer.module, at)
    # The norm reads the stream and writes its rows; the sum reads both and writes the stream.
    moved = 5 * at.step.num_rows * hidden_dim * at.size
    yield Work("elementwise", kind, activation_bytes=moved, is_decode=at.step.is_decode)


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
    works.append(
        Work(
            "head",
            "head",
            flops=2 * rows * hidden * config.vocab_size,
            weight_bytes=hidden * config.vocab_size * at.size,
            activation_bytes=rows * (hidden * (4 if at.is_ours else at.size) + 4 * config.vocab_size),
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
    "prefill",
    "step_work",
    "sublayer_work",
    "total_bytes",
    "total_flops",
]
