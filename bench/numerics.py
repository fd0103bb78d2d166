"""What exact rows cost: an engine's steps with numerics "exact" beside "fast", and how far both are from float64.

    python -m bench numerics [--models dense mla hybrid] [--dtypes float32 bfloat16] [--backend torch]
                             [--lengths 700 2048] [--repeats 5] [--cpu-time]

Models of about 60 million parameters with random weights: full attention, MLA, KDA and MLA 3:1. Prompts in pieces of
512, and decode steps of 1, 8 and 32 sequences, logits of the last rows with them; both numerics take turns over the
same weights. First the logits of a prompt are compared with those of the model in float64. Where our kernels give both
the same bits, they are the same calls, and no times are taken.
A ratio is exact over fast, of times taken in the same turn: above 1, fast is faster.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial

import torch

from bench.outcome import Outcome
from bench.timing import add_clock_option, alternated, chosen_clock, medians
from hyla.caches import Cache
from hyla.models.config import (
    KDAConfig,
    MLAConfig,
    MLPConfig,
    ModelConfig,
    RopeConfig,
    SoftmaxConfig,
    SublayerConfig,
)
from hyla.models.initialize import initialize
from hyla.models.recording import StepForward
from hyla.models.state import cast
from hyla.models.trunk import Model
from hyla.ops import backends, numerics
from hyla.ops.batch import Batch
from hyla.ops.host_memory import keep_freed_memory

NAMES: tuple[numerics.Numerics, ...] = ("exact", "fast")
VOCAB, HIDDEN, PIECE, COMPARED = 8192, 640, 512, 1024
ROPE = RopeConfig(rotary_dim=32)
MLA = MLAConfig(num_heads=10, kv_lora_dim=256, nope_dim=64, rope_dim=32, value_dim=64, rope=ROPE)
KDA = KDAConfig(num_heads=10, key_dim=64, value_dim=64, gate_rank=64)
DENSE = SoftmaxConfig(num_heads=10, num_kv_heads=5, head_dim=64, rope=ROPE)
STACKS = {"dense": (DENSE,) * 10, "mla": (MLA,) * 10, "hybrid": (KDA, KDA, KDA, MLA) * 2 + (KDA, MLA)}
BOUND = {"float32": 1e-4, "bfloat16": 0.1}
"""Largest difference from float64, as a share of the largest logit, beyond which something is wrong."""


def config_of(name: str) -> ModelConfig:
    mlp = SublayerConfig(module=MLPConfig(intermediate_dim=1792))
    stack = [part for mixer in STACKS[name] for part in (SublayerConfig(module=mixer), mlp)]
    return ModelConfig(family="hyla", vocab_size=VOCAB, hidden_dim=HIDDEN, sublayers=tuple(stack), max_len=4096)


def model_of(name: str, dtype: torch.dtype) -> Model:
    return cast(initialize(Model(config_of(name)), 1), dtype).eval()


def ids(count: int) -> torch.Tensor:
    return torch.randint(1, VOCAB, (count,), generator=torch.Generator().manual_seed(2))


class Way:
    """A model under one of the numerics, as an engine calls it."""

    def __init__(self, model: Model, name: numerics.Numerics):
        self.model, self.forward = model, StepForward(model)
        self.name: numerics.Numerics = name

    @torch.inference_mode()
    def step(self, cache: Cache, sequences: list, tokens_T: torch.Tensor) -> torch.Tensor:
        """The same new tokens for each sequence; all rows' hidden states."""
        with numerics.use(self.name):
            batch = cache.batch([(sequence, len(tokens_T)) for sequence in sequences])
            head_TD = self.forward(tokens_T.repeat(len(sequences)), batch, cache.layers).head_TD
            self.model.head_logits(head_TD[batch.last_rows_N])
        for sequence in sequences:
            cache.commit(sequence, len(tokens_T))
        return head_TD

    def cache(self, count: int, length: int) -> Cache:
        specs = self.model.cache_specs()
        return Cache(specs, num_pages=count * (length // 64 + 2), num_slots=count, numerics=self.name)

    def prefill(self, length: int) -> torch.Tensor:
        cache = self.cache(1, length)
        sequence = cache.open()
        return torch.cat([self.step(cache, [sequence], piece_T) for piece_T in ids(length).split(PIECE)])

    def decoding(self, count: int, steps: int) -> Callable[[], torch.Tensor]:
        cache = self.cache(count, 256 + 3 + steps)
        sequences = [cache.open() for _ in range(count)]
        self.step(cache, sequences, ids(256))
        for _ in range(2):
            self.step(cache, sequences, ids(1))
        return lambda: self.step(cache, sequences, ids(1))

    def logits(self) -> torch.Tensor:
        with torch.inference_mode(), numerics.use(self.name):
            return self.model.head_logits(self.prefill(COMPARED)).double()


def compared(ways: list[Way], name: str, dtype: torch.dtype) -> dict:
    """Largest difference of logits from the same weights in float64, as a share of the largest; whether both agree."""
    double = model_of(name, dtype).double()
    with torch.inference_mode():
        right = double.head_logits(double(ids(COMPARED), Batch.packed([COMPARED])))
    found = {way.name: way.logits() for way in ways}
    far = {way: float((logits - right).abs().max() / right.abs().max()) for way, logits in found.items()}
    return {"distance": far, "same_bits": torch.equal(found["exact"], found["fast"])}


def measured(ways: list[Way], lengths: list[int], repeats: int, clock) -> dict[str, dict]:
    """By figure: milliseconds of each, and the median of exact over fast."""
    steps = 4 * repeats
    figures = {
        **{f"prefill_{length}": (lambda way, length=length: partial(way.prefill, length)) for length in lengths},
        **{f"decode_{count}": (lambda way, count=count: way.decoding(count, steps + 1)) for count in (1, 8, 32)},
    }
    results = {}
    for figure, prepare in figures.items():
        calls = {way.name: prepare(way) for way in ways}
        found = alternated(calls, repeats if "prefill" in figure else steps, clock=clock)
        ratios = [exact / fast for exact, fast in zip(found["exact"], found["fast"], strict=True)]
        results[figure] = {**medians(found, 1e3, 2), "ratio": round(statistics.median(ratios), 3)}
        print("  ", figure, results[figure], flush=True)
    return results


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", nargs="+", default=list(STACKS), choices=list(STACKS))
    parser.add_argument("--dtypes", nargs="+", default=list(BOUND), choices=list(BOUND))
    parser.add_argument("--backend", default="auto", choices=list(backends.CHOICES))
    parser.add_argument("--lengths", nargs="+", type=int, default=[700, 2048])
    parser.add_argument("--repeats", type=int, default=5)
    add_clock_option(parser)


def run(options: argparse.Namespace) -> Outcome:
    clock = chosen_clock(options)
    keep_freed_memory()
    backends.use(options.backend)
    results, passed = {}, True
    for name in options.models:
        for dtype in options.dtypes:
            model = model_of(name, getattr(torch, dtype)).pack()
            ways = [Way(model, one) for one in NAMES]
            line = compared(ways, name, getattr(torch, dtype))
            passed = passed and max(line["distance"].values()) <= BOUND[dtype]
            print(name, dtype, line, flush=True)
            if not (line["same_bits"] and backends.on(model.device) == "native"):
                line |= measured(ways, options.lengths, options.repeats, clock)
            results[f"{name} {dtype}"] = line
    return Outcome(results, passed=passed)
