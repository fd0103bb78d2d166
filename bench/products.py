"""Products with our own kernel beside the CPU library's, from one row to 512, cold weights.

    python -m bench products [--rounds 7] [--cpu-time]

bf16 rows with bf16 weights, fp32 rows with fp32 weights, and fp32 rows with bf16 weights, for which the library needs
an fp32 copy. Ours lie in tiles, the library's in its own packed layout, or plain where it has none for the processor
(bf16 with AVX2). Each call meets the next of several copies, so that weights come from memory. First every row count
must give the same bits, which is true of ours by construction.
What counts is the median of the ratios of a round; no target.
"""

from __future__ import annotations

import argparse
import statistics

import torch

from bench.outcome import Outcome
from bench.timing import Clock, add_clock_option, alternated, chosen_clock
from hyla.ops.exact import library
from hyla.ops.weights.tiled import tiled

SHAPES = ((7168, 1024), (1024, 3584), (8192, 2048))
ROWS = (1, 2, 4, 8, 32, 128, 512)
KINDS = {
    "bf16": (torch.bfloat16, torch.bfloat16),
    "fp32": (torch.float32, torch.float32),
    "fp32 rows, bf16 weights": (torch.float32, torch.bfloat16),
}
"""By name: the dtypes of rows and weights."""
COLD_BYTES = 200e6
"""Of the copies together: more than a last-level cache holds."""
CALL_FLOPS = 2e9
"""A measured piece has at least so many, so that short calls are repeated."""


def in_library(weight: torch.Tensor) -> torch.Tensor:
    """In the library's packed layout; plain where it has none for this processor, as for bf16 with AVX2."""
    try:
        return library.reorder(weight)
    except RuntimeError:
        return weight


def by_library(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    if weight.is_mkldnn:
        return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return torch.nn.functional.linear(x, weight)


def measure(kind: str, out_dim: int, in_dim: int, clock: Clock, rounds: int) -> list[dict]:
    """One line for each row count."""
    x_dtype, w_dtype = KINDS[kind]
    copies = max(2, round(COLD_BYTES / (out_dim * in_dim * w_dtype.itemsize)))
    generator = torch.Generator().manual_seed(0)
    plain = [torch.randn(out_dim, in_dim, generator=generator).to(w_dtype) for _ in range(copies)]
    own = [tiled(weight, dtype=x_dtype) for weight in plain]
    packed = [in_library(weight.to(x_dtype)) for weight in plain]
    all_rows = torch.randn(ROWS[-1], in_dim, generator=generator).to(x_dtype)
    whole, lines = own[0].product(all_rows), []
    for count in ROWS:
        x = all_rows[:count].contiguous()
        calls = max(1, round(CALL_FLOPS / (2 * count * out_dim * in_dim * copies)))

        def over(product, weights, x=x, calls=calls):
            return lambda: [product(weight, x) for _ in range(calls) for weight in weights]

        ways = {"own": over(lambda weight, x: weight.product(x), own), "library": over(by_library, packed)}
        times = alternated(ways, rounds, clock=clock)
        flops, least = 2 * count * out_dim * in_dim * copies * calls, min(times["own"])
        lines.append(
            {
                "kind": kind,
                "shape": [count, in_dim, out_dim],
                "is_equal": torch.equal(own[0].product(x), whole[:count]),
                "own_gflops": round(flops / least / 1e9, 1),
                "own_gb_per_s": round(flops / (2 * count) * w_dtype.itemsize / least / 1e9, 1),
                "times_the_library": round(
                    statistics.median(theirs / ours for ours, theirs in zip(times["own"], times["library"])), 2
                ),
            }
        )
        print(lines[-1], flush=True)
    return lines


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=7)
    add_clock_option(parser)


@torch.inference_mode()
def run(options: argparse.Namespace) -> Outcome:
    clock = chosen_clock(options)
    lines = [line for kind in KINDS for shape in SHAPES for line in measure(kind, *shape, clock, options.rounds)]
    return Outcome({"products": lines}, passed=all(line["is_equal"] for line in lines))
