"""This machine's rates, measured on the engine's own sublayers in under a minute, and stored in the user's cache.

Every kind of sublayer is timed at a few sizes, decoding a token and reading a prompt. What its projections do not
explain is its operator's: seconds = calls x overhead + FLOPs / rate + bytes / rate, fitted without negative parts.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from hyla.cost.calibration import NEVER, Point, fit, machine_of
from hyla.cost.devices import Device, Rate
from hyla.cost.roofline import work_seconds
from hyla.cost.work import Step, Work, Setting, sublayer_work
from hyla.models.config import (
    GatedDeltaConfig,
    KDAConfig,
    LightningConfig,
    LinearAttentionConfig,
    Mamba2Config,
    MLAConfig,
    MLPConfig,
    ModelConfig,
    MoEConfig,
    SoftmaxConfig,
    SublayerConfig,
)

Clock = Callable[[], float]

HIDDEN, VOCABULARY = 768, 4096
COPIES = 4
"""Sublayers of one kind that are timed together."""
FILLER = MLPConfig(intermediate_dim=2048)
"""Stands behind every decoding sublayer: together their weights exceed the caches, as those of real models do, while
the code stays warm."""
DECODED, PASSES, WARMUP = 25, 4, 2


@dataclass(frozen=True)
class Case:
    """One kind of sublayer at one size, in one call."""

    module: object
    start: int
    length: int

    @property
    def step(self) -> Step:
        return Step(1, self.start, self.length)


def _config(*modules, copies: int = COPIES) -> ModelConfig:
    sublayers = tuple(SublayerConfig(module=module) for module in modules) * copies
    return ModelConfig(
        family="hyla", vocab_size=VOCABULARY, hidden_dim=HIDDEN, sublayers=sublayers, max_len=1 << 20
    )


def case_seconds(case: Case, clock: Clock = time.perf_counter) -> float:
    """One sublayer's time: median over decoded tokens, or over passes of a prompt."""
    import torch

    from hyla.caches import Cache
    from hyla.models.initialize import initialize
    from hyla.models.trunk import Model
    from hyla.models.weights import cast

    is_decode = case.length == 1
    config = _config(case.module, FILLER) if is_decode else _config(case.module, copies=1)
    model = cast(initialize(Model(config), 0), torch.bfloat16).pack()
    x_TD = torch.randn(case.length, HIDDEN, generator=torch.Generator().manual_seed(1)).bfloat16()
    turns = (DECODED if is_decode else PASSES) + WARMUP
    cache = Cache(model.cache_specs(), num_pages=-(-(case.start + turns + case.length) // 64) + 1, num_slots=1)
    times = []
    with torch.inference_mode():
        sequence = fill(cache, case.start)
        for _ in range(turns):
            if not is_decode:
                cache.close(sequence)
                sequence = cache.open()
            batch = cache.batch([(sequence, case.length)])
            times.append(_timed_run(model.sublayers, x_TD, batch, cache.layers, 1 + is_decode, clock))
            cache.commit(sequence, case.length)
    return statistics.median(times[WARMUP:]) / (COPIES if is_decode else 1)


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


def _works(case: Case) -> list[Work]:
    at = Setting(case.step, "bf16", "hyla")
    return list(sublayer_work(SublayerConfig(module=case.module), HIDDEN, at))


DECODE_AT = 1024 + 20


def _decode(*modules, starts: Iterable[int] = (DECODE_AT,)) -> list[Case]:
    return [Case(module, start, 1) for module in modules for start in starts]


def _prefill(*modules, lengths: Iterable[int] = (128, 1024)) -> list[Case]:
    return [Case(module, 0, length) for module in modules for length in lengths]


@dataclass(frozen=True)
class Fitted:
    """How one rate is found: the calls that are timed, and what of them the operator's time depends on."""

    operator: str
    cases: list[Case]
    parts: tuple[str, ...]


def _cases() -> dict[str, Fitted]:
    """By rate, in the order of measurement: later ones are what the earlier ones leave unexplained."""
    delta = [GatedDeltaConfig(num_key_heads=h // 2, num_value_heads=h, key_dim=64, value_dim=64) for h in (4, 16)]
    kda = [KDAConfig(num_heads=h, key_dim=64, value_dim=64, gate_rank=64) for h in (4, 16)]
    lightning = [
        LightningConfig(num_heads=h, head_dim=64, slopes="minimax", layer=0, num_layers=2) for h in (4, 16)
    ]
    mamba = [Mamba2Config(num_heads=h, head_dim=64, num_groups=2, state_dim=64) for h in (4, 16)]
    linear = [LinearAttentionConfig(num_heads=h, key_dim=64, value_dim=64) for h in (4, 16)]
    softmax = [SoftmaxConfig(num_heads=h, num_kv_heads=g, head_dim=64) for h, g in ((8, 2), (16, 4))]
    mla = [MLAConfig(num_heads=h, kv_lora_dim=256, nope_dim=64, rope_dim=32, value_dim=64) for h in (4, 12)]
    mlp = [MLPConfig(intermediate_dim=width) for width in (1024, 4096)]
    experts = [
        MoEConfig(num_experts=16, num_experts_per_token=visited, expert_dim=width)
        for visited, width in ((2, 256), (4, 768))
    ]
    found = {}

    def add(name: str, modules: list, starts=(DECODE_AT,), lengths=(128, 1024), is_read_only=True):
        operator = name.split("/")[0]
        read = ("calls", "nbytes") if is_read_only else ("calls", "flops", "nbytes")
        found[f"{name}/prefill"] = Fitted(operator, _prefill(modules[-1], lengths=lengths), ("calls", "flops"))
        found[f"{name}/decode"] = Fitted(operator, _decode(*modules, starts=starts), read)

    add("projection", mlp)
    add("experts", experts)
    add("gated_delta", delta)
    add("kda", kda)
    add("lightning", lightning)
    add("ssd", mamba)
    add("linear", linear)
    contexts = (DECODE_AT, (1 << 13) + 20, (1 << 14) + 20)
    add("attention/softmax", softmax, starts=contexts, lengths=(256, 1024, 4096), is_read_only=False)
    add("attention/mla", mla, starts=contexts, lengths=(256, 1024, 2048), is_read_only=False)
    return found


def calibrate(say: Callable[[str], None] = lambda line: None, clock: Clock = time.perf_counter) -> Device:
    """Measure this machine. say: told what is being measured. clock: `time.process_time` on a machine whose other
    processes take the processor away now and then (with one thread, which it counts alone)."""
    import torch

    from hyla.ops.host_memory import keep_freed_memory

    keep_freed_memory()
    rates = {"elementwise": Rate(NEVER, NEVER, 0.0, adds_up=True)}
    peaks = {"bf16": _matmul_rate(torch.bfloat16, 512, clock), "fp32": _matmul_rate(torch.float32, 512, clock)}
    bandwidth = _bandwidth(clock)
    # Per-head and router products: few rows a matrix, in fp32.
    rates["projection/fp32/prefill"] = Rate(peaks["fp32"], NEVER, 0.0, adds_up=True)
    source = f"measured with {torch.get_num_threads()} threads, PyTorch {torch.__version__}"
    fields = dict(bytes_per_second=bandwidth, memory_bytes=_memory_bytes(), source=source, peak_flops=peaks)
    for name, fitted in _cases().items():
        say(name)
        machine = machine_of(rates=rates, **fields)
        rates[name] = fit([_point(case, fitted.operator, machine, clock) for case in fitted.cases], fitted.parts)
        prefill_rate = rates.get(name.replace("/decode", "/prefill"))
        if fitted.parts == ("calls", "nbytes"):
            # A single sequence's row says nothing about products of many rows; prompts do.
            rates[name] = replace(rates[name], flops_per_second=prefill_rate.flops_per_second)
    say("head and step")
    rates["head"] = fit([_head_point(columns, clock) for columns in (8192, 32768)], ("calls", "nbytes"))
    rates["head"] = replace(rates["head"], flops_per_second=peaks["fp32"])
    machine = machine_of(rates=rates, **fields)
    for length, phase in ((1, "decode"), (128, "prefill")):
        rates[f"embedding/{phase}"] = Rate(NEVER, NEVER, max(_step_overhead(machine, length, clock), 0.0), adds_up=True)
    return machine_of(rates=rates, **fields)


def _point(case: Case, operator: str, machine: Device, clock: Clock) -> Point:
    """What an operator did in a case, and the time that nothing else explains."""
    works = _works(case)
    mine = [work for work in works if work.operator == operator]
    others = sum(work_seconds(work, machine, "bf16")[0] for work in works if work.operator != operator)
    return Point(
        calls=sum(work.calls for work in mine),
        flops=sum(work.flops for work in mine),
        nbytes=sum(work.nbytes for work in mine),
        seconds=case_seconds(case, clock) - others,
    )


def _repeat(call: Callable[[], object], clock: Clock, count: int = 7) -> float:
    call()
    times = []
    for _ in range(count):
        begin = clock()
        call()
        times.append(clock() - begin)
    return statistics.median(times)


def _matmul_rate(dtype, rows_count: int, clock: Clock, inner: int = 1024, columns: int = 4096) -> float:
    """FLOP/s of a product with packed weights."""
    import torch

    from hyla.ops import rows

    with torch.inference_mode():
        weight = rows.pack(torch.randn(columns, inner, dtype=torch.float32).to(dtype))
        x = torch.randn(rows_count, inner).to(dtype)
        return 2 * rows_count * inner * columns / _repeat(lambda: rows.linear(x, weight), clock)


def matmul_table(clock: Clock = time.perf_counter) -> dict[str, float]:
    """FLOP/s of products with packed weights, by dtype and number of rows."""
    import torch

    kinds = {"bf16": torch.bfloat16, "fp32": torch.float32}
    sizes = [(name, count) for name in kinds for count in (1, 32, 512)]
    return {f"{name}, {count} rows": _matmul_rate(kinds[name], count, clock) for name, count in sizes}


def _bandwidth(clock: Clock) -> float:
    """Bytes per second of a read that no cache holds."""
    import torch

    data = torch.zeros(1 << 26)
    return data.nbytes / _repeat(lambda: data.sum(), clock)


def _memory_bytes() -> float:
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def _head_point(columns: int, clock: Clock) -> Point:
    """One row against an fp32 head with flushed caches."""
    import torch

    from hyla.ops import rows

    with torch.inference_mode():
        weight, x = rows.pack(torch.randn(columns, HIDDEN)), torch.randn(1, HIDDEN)
        others = torch.zeros(1 << 24)
        times = []
        for _ in range(DECODED):
            others.sum()  # so that the weights come from memory
            begin = clock()
            rows.linear(x, weight)
            times.append(clock() - begin)
    numel = columns * HIDDEN
    return Point(1.0, 2.0 * numel, 4.0 * numel + 4 * (columns + HIDDEN), statistics.median(times))


def _step_overhead(machine: Device, length: int, clock: Clock) -> float:
    """What a whole call takes beside its sublayers and its head: batch, plans, embedding, final norm."""
    import torch

    from hyla.caches import Cache
    from hyla.cost.work import step_work
    from hyla.models.initialize import initialize
    from hyla.models.trunk import Model
    from hyla.models.weights import cast

    mixer = GatedDeltaConfig(num_key_heads=2, num_value_heads=4, key_dim=64, value_dim=64)
    config = _config(mixer, FILLER)
    model = cast(initialize(Model(config), 0), torch.bfloat16).pack()
    start = DECODE_AT if length == 1 else 0
    cache = Cache(model.cache_specs(), num_pages=64, num_slots=1)
    tokens, times = torch.zeros(length, dtype=torch.int64), []
    with torch.inference_mode():
        sequence = fill(cache, start)
        for _ in range(DECODED):
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
