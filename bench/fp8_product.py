"""FP8 weights that stay FP8: the native product against dequantising and against bf16 weights, plain and packed.

Every shape is first compared bit for bit with the product of the dequantised weight; then all forms are timed in turn.
Each call meets the next of several copies, so that weights come from memory, not from a cache. Target: one row costs
no more than with plain bf16 weights.

    python -m bench fp8_product [--threads 2] [--cpu-time]
"""

from __future__ import annotations

import argparse

import torch

from bench.outcome import Outcome
from bench.timing import Clock, add_clock_option, alternated, chosen_clock, medians
from hyla.ops import moe
from hyla.ops.exact import rows
from hyla.ops.weights import FP8Tensor, FP8Weights, dequantise, pack, pack_stack, quantise

SHAPES = ((8192, 2048), (2048, 8192), (6144, 3584))
ROWS = (1, 2, 4, 8, 16, 64)
COLD_BYTES = 160e6
"""FP8 bytes of the copies together: five times a last-level cache of 32 MB."""
EXPERTS, CHOSEN, HIDDEN, WIDTH = 64, 8, 1024, 512
ROUNDS, THREADS = 5, 2


def microseconds(calls: dict, copies: int, clock: Clock) -> dict[str, float]:
    """Per call of each form, medians of rounds; forms take turns."""

    def over_copies(call):
        return lambda: [call(copy) for copy in range(copies)]

    found = alternated({name: over_copies(call) for name, call in calls.items()}, ROUNDS, clock=clock)
    return medians(found, 1e6 / copies, 1)


def measure_product(out_dim: int, in_dim: int, clock: Clock, counts=ROWS) -> list[dict]:
    """One line per row count."""
    copies = max(2, round(COLD_BYTES / (out_dim * in_dim)))
    generator = torch.Generator().manual_seed(0)
    codes, scale = quantise(torch.randn(out_dim, in_dim, generator=generator))
    plain = [dequantise(codes, scale, torch.bfloat16).clone() for _ in range(copies)]
    packed = [pack(weight) for weight in plain]
    stored = [FP8Weights((FP8Tensor(codes.clone(), scale, torch.bfloat16),), torch.bfloat16) for _ in range(copies)]
    lines = []
    for count in counts:
        x = torch.randn(count, in_dim, generator=generator).bfloat16()
        calls = {
            "fp8": lambda n, x=x: stored[n].product(x),
            "bf16_plain": lambda n, x=x: torch.nn.functional.linear(x, plain[n]),
            "bf16_packed": lambda n, x=x: packed[n].product(x),
            "dequantise_first": lambda n, x=x: rows.linear(x, stored[n].dense(0, out_dim)),
        }
        is_equal = torch.equal(calls["fp8"](0), calls["bf16_packed"](0))
        us = microseconds(calls, copies, clock)
        lines.append(
            {
                "shape": [count, in_dim, out_dim],
                "is_equal": is_equal,
                "us": us,
                "fp8_gb_per_s": round(out_dim * in_dim / us["fp8"] / 1e3, 1),
                "ratio_to_plain": round(us["fp8"] / us["bf16_plain"], 2),
                "ratio_to_packed": round(us["fp8"] / us["bf16_packed"], 2),
            }
        )
        print(lines[-1], flush=True)
    return lines


def measure_experts(count: int, clock: Clock, layers: int = 6) -> dict:
    """A step of `count` rows through several layers' experts."""
    generator = torch.Generator().manual_seed(1)
    shapes = ((EXPERTS, WIDTH, HIDDEN), (EXPERTS, WIDTH, HIDDEN), (EXPERTS, HIDDEN, WIDTH))
    pairs = [quantise(torch.randn(*shape, generator=generator)) for shape in shapes]
    gate, up, down = (dequantise(*pair, torch.bfloat16) for pair in pairs)
    stacks, packed = [], []
    for _ in range(layers):
        tensors = [FP8Tensor(codes.clone(), scale, torch.bfloat16) for codes, scale in pairs]
        stacks.append((FP8Weights(tuple(tensors[:2]), torch.bfloat16), FP8Weights((tensors[2],), torch.bfloat16)))
        packed.append((pack_stack(gate, up), pack_stack(down)))
    x = torch.randn(count, HIDDEN, generator=generator).bfloat16()
    logits = torch.randn(count, EXPERTS, generator=generator)
    chosen = moe.route(logits, None, num_experts_per_token=CHOSEN, score="softmax", normalize=True)
    calls = {
        "fp8": lambda n: moe.experts(x, *chosen, *stacks[n]),
        "bf16_packed": lambda n: moe.experts(x, *chosen, *packed[n]),
    }
    is_equal = torch.equal(calls["fp8"](0), calls["bf16_packed"](0))
    us = microseconds(calls, layers, clock)
    read = len(chosen[1].unique()) * 3 * HIDDEN * WIDTH
    line = {"experts_rows": count, "is_equal": is_equal, "us": us, "fp8_gb_per_s": round(read / us["fp8"] / 1e3, 1)}
    line["ratio_to_packed"] = round(us["fp8"] / us["bf16_packed"], 2)
    print(line, flush=True)
    return line


def add_options(parser: argparse.ArgumentParser) -> None:
    add_clock_option(parser)


def run(options: argparse.Namespace) -> Outcome:
    clock = chosen_clock(options)
    with torch.inference_mode():
        products = [line for shape in SHAPES for line in measure_product(*shape, clock)]
        experts = [measure_experts(count, clock) for count in (1, 8)]
    is_equal = all(line["is_equal"] for line in products + experts)
    worst = max(line["ratio_to_plain"] for line in products if line["shape"][0] == 1)
    result = {"is_equal": is_equal, "one_row_ratio_to_plain": worst, "target_met": worst <= 1.0}
    return Outcome({**result, "products": products, "experts": experts}, passed=is_equal and worst <= 1.0)
