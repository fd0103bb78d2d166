"""The CPU's kernels in every build that the processor runs, beside one fp32 matrix product.

    python -m bench vectors [--rounds 15] [--threads 1] [--cpu-time]

One layer's work on 512 tokens in each build, and `torch.mm` of 1024 x 1024 x 1024 in fp32, in turn; the builds must
give the same bits first. What counts is the median ratio to the product that was computed in the same round. Target for
the gated delta rule (16 heads of 128): at most 1.0, and at most 2.0 with AVX2.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable

import torch

from bench.outcome import Outcome
from bench.timing import add_clock_option, alternated, chosen_clock
from hyla.ops import backends, native
from hyla.ops.attention import attention
from hyla.ops.batch import Batch
from hyla.ops.exact import primitives
from hyla.ops.gated_delta import gated_delta
from hyla.ops.gla import gla
from hyla.ops.host_memory import keep_freed_memory
from hyla.ops.kda import kda
from hyla.ops.lightning import lightning
from hyla.ops.linear import linear_attention
from hyla.ops.native import build
from hyla.ops.short_conv import short_conv
from hyla.ops.ssd import ssd

TOKENS, HEADS, DIM, SIDE = 512, 16, 128, 1024
TARGETS = {"avx512_bf16": 1.0, "avx512": 1.0, "avx2": 2.0, "neon": 2.0}
"""Of the gated delta rule, as a multiple of the product's time."""


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def works() -> dict[str, Callable[[], torch.Tensor]]:
    """By name: the kernels' work for a layer over one sequence of 512 tokens: 16 heads of 128; lightning has 32, SSD 64
    of 64 with a state of 128 in 8 groups."""
    batch = Batch.packed([TOKENS])
    q, k = (torch.nn.functional.normalize(draw(TOKENS, HEADS, DIM, seed=seed), dim=-1) for seed in (0, 1))
    v, beta = draw(TOKENS, HEADS, DIM, seed=2), draw(TOKENS, HEADS, seed=3).sigmoid()
    decay, by_channel = -0.1 * draw(TOKENS, HEADS, seed=4).abs(), -0.1 * draw(TOKENS, HEADS, DIM, seed=5).abs()
    wide = draw(TOKENS, 3 * HEADS * DIM, seed=6).bfloat16()
    taps = draw(3 * HEADS * DIM, 4, seed=7)
    gate, up = (draw(TOKENS, 3584, seed=seed).bfloat16() for seed in (8, 9))
    keys = k[:, :2].bfloat16()
    slopes = tuple(0.01 * head for head in range(32))
    heads_of_32 = [draw(TOKENS, 32, DIM, seed=seed) for seed in (10, 11, 12)]
    of_groups, steps = [draw(TOKENS, 8, DIM, seed=seed) for seed in (13, 14)], -0.1 * draw(TOKENS, 64, seed=15).abs()
    values = draw(TOKENS, 64, 64, seed=16)
    return {
        "gated_delta": lambda: gated_delta(q, k, v, decay, beta, batch=batch, scale=1.0),
        "kda": lambda: kda(q, k, v, by_channel, beta, batch=batch, scale=1.0),
        "lightning": lambda: lightning(*heads_of_32, slopes, batch=batch, scale=1.0),
        "ssd": lambda: ssd(*of_groups, values, steps, batch=batch),
        "linear": lambda: linear_attention(q.abs(), k.abs(), v, batch=batch, eps=1e-6),
        "gla": lambda: gla(q, k, v, by_channel, batch=batch, scale=1.0),
        "attention": lambda: attention(q, keys, keys, batch=batch, cache=None, scale=1.0),
        "short_conv": lambda: short_conv(wide, taps, batch=batch, cache=None),
        "swiglu": lambda: primitives.swiglu(gate, up),
        "rms_norm": lambda: primitives.rms_norm(wide, None, eps=1e-6),
    }


def switch(name: str) -> None:
    """From here on the kernels are those of this build."""
    os.environ[build.VARIABLE] = name
    native.forget()
    native.library()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=15)
    add_clock_option(parser)


@torch.inference_mode()
def run(options: argparse.Namespace) -> Outcome:
    clock = chosen_clock(options)
    keep_freed_memory()
    backends.use("native")
    names = [found.name for found in build.runnable() if found.is_chosen]
    left, right = draw(SIDE, SIDE, seed=10), draw(SIDE, SIDE, seed=11)
    results, passed = {}, True
    for what, work in works().items():
        outputs = []
        found: dict[str, list[float]] = {}
        for name in names:
            switch(name)
            outputs.append(work())
            times = alternated({"mm": lambda: torch.mm(left, right), name: work}, options.rounds, clock=clock)
            ratios = [mine / mm for mine, mm in zip(times[name], times["mm"])]
            found[name] = [1e3 * min(times[name]), 1e3 * min(times["mm"]), statistics.median(ratios)]
        is_same = all(torch.equal(outputs[0], other) for other in outputs[1:])
        fits = what != "gated_delta" or all(found[name][2] <= TARGETS[name] for name in names)
        passed &= is_same and fits
        results[what] = {"same_bits": is_same} | {
            name: {"least_ms": round(mine, 2), "mm_least_ms": round(mm, 2), "of_mm": round(ratio, 3)}
            for name, (mine, mm, ratio) in found.items()
        }
        print(f"{what:12} {results[what]}", flush=True)
    return Outcome(results, passed=passed)
