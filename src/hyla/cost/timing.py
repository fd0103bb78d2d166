"""What the calibration times: sublayers inside a stack, products, reads, the head, a whole call."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from hyla.cost.calibration import Point
from hyla.cost.call import Step
from hyla.cost.device import Device
from hyla.cost.roofline import work_seconds
from hyla.cost.work import step_work
from hyla.models.config import GatedDeltaConfig, MLPConfig, ModelConfig, ModuleConfig, SublayerConfig

Clock = Callable[[], float]

HIDDEN, VOCABULARY = 768, 4096
COPIES = 4
"""Sublayers of one kind that are timed together."""
FILLER = MLPConfig(intermediate_dim=2048)
"""Stands behind every decoding sublayer: together their weights exceed the caches, as those of real models do, while
the code stays warm."""
DECODE_AT = 1024 + 20
"""Context of a decoded token, in the middle of a chunk."""
DECODED, PASSES, WARMUP = 25, 4, 2
CASE_SECONDS, FEWEST = 1.0, 3
"""A case stops after so long with so many results: on a busy machine the calibration still ends."""


@dataclass(frozen=True)
class Case:
    """One kind of sublayer at one size, in one call."""

    module: ModuleConfig
    start: int
    length: int

    @property
    def step(self) -> Step:
        return Step(1, self.start, self.length)


def stack_of(*modules, copies: int = COPIES) -> ModelConfig:
    """A model of these sublayers over and over."""
    sublayers = tuple(SublayerConfig(module=module) for module in modules) * copies
    return ModelConfig(family="hyla", vocab_size=VOCABULARY, hidden_dim=HIDDEN, sublayers=sublayers, max_len=1 << 20)


def case_seconds(case: Case, clock: Clock = time.perf_counter) -> float:
    """One sublayer's time: median over decoded tokens, or over passes of a prompt."""
    import torch

    from hyla.caches import Cache
    from hyla.models.initialize import initialize
    from hyla.models.state import cast
    from hyla.models.trunk import Model

    is_decode = case.length == 1
    config = stack_of(case.module, FILLER) if is_decode else stack_of(case.module, copies=1)
    model = cast(initialize(Model(config), 0), torch.bfloat16).pack()
    x_TD = torch.randn(case.length, HIDDEN, generator=torch.Generator().manual_seed(1)).bfloat16()
    turns = (DECODED if is_decode else PASSES) + WARMUP
    cache = Cache(model.cache_specs(), num_pages=-(-(case.start + turns + case.length) // 64) + 1, num_slots=1)
    times, begun = [], time.perf_counter()
    with torch.inference_mode():
        sequence = fill(cache, case.start)
        while len(times) < turns and not _is_late(begun, len(times)):
            if not is_decode:
                cache.close(sequence)
                sequence = cache.open()
            batch = cache.batch([(sequence, case.length)])
            times.append(_timed_run(model.sublayers, x_TD, batch, cache.layers, 1 + is_decode, clock))
            cache.commit(sequence, case.length)
    return statistics.median(times[WARMUP:]) / (COPIES if is_decode else 1)


def _is_late(begun: float, results: int) -> bool:
    return results >= WARMUP + FEWEST and time.perf_counter() - begun > CASE_SECONDS


def _timed_run(sublayers, x_TD, batch, caches, every: int, clock: Clock) -> float:
    """Seconds of each `every`-th sublayer of a stack, together."""
    remaining, seconds = iter(caches), 0.0
    for place, sublayer in enumerate(sublayers):
        cache = next(remaining) if sublayer.is_mixer else None
        begin = clock()
        x_TD = sublayer(x_TD, batch, cache)
        seconds += 0.0 if place % every else clock() - begin
    return seconds


def fill(cache, context: int):
    """A sequence of that length whose cache holds random numbers: time depends on how much is kept, not on what."""
    import torch

    sequence = cache.open()
    if context:
        cache.batch([(sequence, context)])
        cache.commit(sequence, context)
        generator = torch.Generator().manual_seed(context)
        for layer in cache.layers:
            for tensor in layer.values():
                if tensor.is_floating_point():
                    tensor.normal_(std=0.1, generator=generator)
    return sequence


def repeat(call: Callable[[], object], clock: Clock, count: int = 7) -> float:
    """Median seconds of a call, after a first one."""
    call()
    times, begun = [], time.perf_counter()
    while len(times) < count and not _is_late(begun, len(times)):
        begin = clock()
        call()
        times.append(clock() - begin)
    return statistics.median(times)


def matmul_rate(dtype, rows_count: int, clock: Clock, inner: int = 1024, columns: int = 4096) -> float:
    """FLOP/s of a product with packed weights."""
    import torch

    from hyla.ops.weights import pack

    with torch.inference_mode():
        weight = pack(torch.randn(columns, inner, dtype=torch.float32).to(dtype))
        x = torch.randn(rows_count, inner).to(dtype)
        return 2 * rows_count * inner * columns / repeat(lambda: weight.product(x), clock)


def matmul_table(clock: Clock = time.perf_counter) -> dict[str, float]:
    """FLOP/s of products with packed weights, by dtype and number of rows."""
    import torch

    kinds = {"bf16": torch.bfloat16, "fp32": torch.float32}
    sizes = [(name, count) for name in kinds for count in (1, 32, 512)]
    return {f"{name}, {count} rows": matmul_rate(kinds[name], count, clock) for name, count in sizes}


def bandwidth(clock: Clock) -> float:
    """Bytes per second of a read that no cache holds."""
    import torch

    data = torch.zeros(1 << 26)
    return data.nbytes / repeat(lambda: data.sum(), clock)


def head_point(columns: int, clock: Clock) -> Point:
    """One fp32 row against a bf16 head with flushed caches."""
    import torch

    from hyla.ops.weights import pack

    with torch.inference_mode():
        weight, x = pack(torch.randn(columns, HIDDEN).bfloat16(), dtype=torch.float32), torch.randn(1, HIDDEN)
        others = torch.zeros(1 << 24)
        times = []
        for _ in range(DECODED):
            others.sum()  # so that the weights come from memory
            begin = clock()
            weight.product(x)
            times.append(clock() - begin)
    numel = columns * HIDDEN
    return Point(1.0, 2.0 * numel, 2.0 * numel + 4 * (columns + HIDDEN), statistics.median(times))


def step_overhead(machine: Device, length: int, clock: Clock) -> float:
    """What a whole call takes beside its sublayers and its head: batch, plans, embedding, final norm."""
    import torch

    from hyla.caches import Cache
    from hyla.models.initialize import initialize
    from hyla.models.state import cast
    from hyla.models.trunk import Model

    mixer = GatedDeltaConfig(num_key_heads=2, num_value_heads=4, key_dim=64, value_dim=64)
    config = stack_of(mixer, FILLER)
    model = cast(initialize(Model(config), 0), torch.bfloat16).pack()
    start = DECODE_AT if length == 1 else 0
    cache = Cache(model.cache_specs(), num_pages=64, num_slots=1)
    tokens, times, begun = torch.zeros(length, dtype=torch.int64), [], time.perf_counter()
    with torch.inference_mode():
        sequence = fill(cache, start)
        while len(times) < DECODED and not _is_late(begun, len(times)):
            if length > 1:
                cache.close(sequence)
                sequence = cache.open()
            begin = clock()
            hidden_TD = model(tokens, cache.batch([(sequence, length)]), cache.layers)
            model.head_logits(hidden_TD[-1:])
            times.append(clock() - begin)
            cache.commit(sequence, length)
    works = step_work(config, Step(1, start, length), arithmetic="hyla")
    explained = sum(work_seconds(work, machine, "bf16")[0] for work in works if work.operator != "embedding")
    return statistics.median(times) - explained
