"""Predicted against measured seconds of prefill and decode: five random-weight models of different pattern.

The machine is calibrated first (`hyla cost --calibrate` measures single sublayers), then whole models are timed at
contexts from 1k to 32k. Beyond 4k the cache is filled with random numbers and a piece of 512 tokens is read, or one
token decoded, at that context: time depends on how much is kept, not on what.

    python -m bench cost_prediction
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from bench.outcome import Outcome
from hyla.caches import Cache
from hyla.cost.calibrate import calibrate
from hyla.cost.call import Step
from hyla.cost.roofline import Serving
from hyla.cost.timing import fill
from hyla.models.config import (
    GatedDeltaConfig,
    KDAConfig,
    LightningConfig,
    Mamba2Config,
    MLAConfig,
    MLPConfig,
    ModelConfig,
    MoEConfig,
    RouterConfig,
    SoftmaxConfig,
    SublayerConfig,
)
from hyla.models.initialize import initialize
from hyla.models.state import cast
from hyla.models.trunk import Model
from hyla.ops.host_memory import keep_freed_memory

HIDDEN, VOCABULARY = 512, 8192
PIECE = 512
THREADS = 1
CLOCK = time.process_time
"""With one thread: what the process computed, not how long others kept it from computing."""
DECODE_CONTEXTS = (1 << 10, 1 << 12, 1 << 14, 1 << 15)
DECODED, REPEATS, WARMUP = 25, 3, 3
MEDIAN_TARGET, WORST_TARGET = 0.20, 0.40

MLP = MLPConfig(intermediate_dim=2304)
MOE = MoEConfig(
    num_experts=12,
    num_experts_per_token=3,
    expert_dim=512,
    shared_dim=512,
    router=RouterConfig(score="sigmoid", has_bias=True),
)
ATTENTION = SoftmaxConfig(num_heads=8, num_kv_heads=2, head_dim=64)
MIXERS = {
    "K": KDAConfig(num_heads=8, key_dim=64, value_dim=64, gate_rank=64),
    "M": MLAConfig(num_heads=8, kv_lora_dim=192, nope_dim=64, rope_dim=32, value_dim=64),
    "G": GatedDeltaConfig(num_key_heads=4, num_value_heads=8, key_dim=96, value_dim=64),
    "A": ATTENTION,
    "L": LightningConfig(num_heads=8, head_dim=64, slopes="minimax", layer=1, num_layers=8),
    "S": Mamba2Config(num_heads=16, head_dim=64, num_groups=2, state_dim=96),
}
MODELS = {
    "3 KDA : 1 MLA, experts": ("KKKMKKKM", MOE),
    "3 gated delta : 1 attention": ("GGGAGGGA", MLP),
    "4 lightning : 1 attention, experts": ("LLLLALLLLA", MOE),
    "3 Mamba-2 : 1 attention": ("SSSASSSA", MLP),
    "attention": ("AAAAAA", MLP),
}


def config_of(pattern: str, channel_mixer) -> ModelConfig:
    modules = [module for letter in pattern for module in (MIXERS[letter], channel_mixer)]
    sublayers = tuple(SublayerConfig(module=module) for module in modules)
    return ModelConfig(family="hyla", vocab_size=VOCABULARY, hidden_dim=HIDDEN, sublayers=sublayers, max_len=1 << 20)


def step_seconds(model: Model, cache: Cache, sequence, length: int) -> float:
    """One call, its head included."""
    tokens = torch.randint(VOCABULARY, (length,))
    begin = CLOCK()
    hidden_TD = model(tokens, cache.batch([(sequence, length)]), cache.layers)
    model.head_logits(hidden_TD[-1:])
    seconds = CLOCK() - begin
    cache.commit(sequence, length)
    return seconds


def measure(model: Model, start: int, length: int) -> float:
    """Median seconds of a call at a context: consecutive decoded tokens, or repeated pieces."""
    pages = -(-(start + max(length, DECODED + WARMUP)) // 64) + 1
    times = []
    if length == 1:
        cache = Cache(model.cache_specs(), num_pages=pages, num_slots=1)
        sequence = fill(cache, start)
        times = [step_seconds(model, cache, sequence, 1) for _ in range(DECODED + WARMUP)][WARMUP:]
    for _ in range(REPEATS if length > 1 else 0):
        cache = Cache(model.cache_specs(), num_pages=pages, num_slots=1)
        times.append(step_seconds(model, cache, fill(cache, start), length))
    return statistics.median(times)


def steps() -> list[tuple[str, int, int]]:
    """(phase, earlier tokens, new tokens)."""
    whole = [("prefill", 0, 1 << 10), ("prefill", 0, 1 << 12)]
    pieces = [("prefill", context - PIECE, PIECE) for context in (1 << 14, 1 << 15)]
    return whole + pieces + [("decode", context, 1) for context in DECODE_CONTEXTS]


@torch.inference_mode()
def predictions(only: str | None = None) -> list[dict]:
    """Every model at every context: predicted and measured."""
    machine, rows = calibrate(clock=CLOCK), []
    for name, (pattern, channel_mixer) in MODELS.items():
        if only and only not in name:
            continue
        config = config_of(pattern, channel_mixer)
        predicted = Serving(config, machine)
        model = cast(initialize(Model(config), 0), torch.bfloat16).pack()
        measure(model, 0, 128)
        for phase, start, length in steps():
            guess, found = predicted.time(Step(1, start, length)), measure(model, start, length)
            error = guess.seconds / found - 1.0
            row = {"model": name, "phase": phase, "context": start + length, "new": length}
            rows.append(row | {"predicted": guess.seconds, "measured": found, "error": error})
            print(
                f"| {name} | {phase} of {length:,} | {start + length:,} | {1e3 * guess.seconds:.1f} | "
                f"{1e3 * found:.1f} | {100 * error:+.0f}% |",
                flush=True,
            )
    return rows


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", help="models whose name holds this")


def run(options: argparse.Namespace) -> Outcome:
    keep_freed_memory()
    print("| model | step | context | predicted, ms | measured, ms | error |\n|---|---|---|---|---|---|")
    rows = predictions(options.only)
    errors = [abs(row["error"]) for row in rows]
    summary = {"steps": len(rows), "median_error": round(statistics.median(errors), 3)}
    summary["worst_error"] = round(max(errors), 3)
    met = statistics.median(errors) < MEDIAN_TARGET and max(errors) < WORST_TARGET
    return Outcome({**summary, "within_targets": met, "rows": rows})
