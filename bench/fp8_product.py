"""FP8 weights that stay FP8: the native product against dequantising and against bf16 weights, plain and packed.

Every shape is first compared bit for bit with the product of the dequantised weight; then all forms are timed in turn.
Each call meets the next of several copies, so that weights come from memory, not from a cache. Target: one row costs
no more than with plain bf16 weights.

    python bench/fp8_product.py [--threads 2] [--cpu-time]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time

import torch

from hyla.ops import moe
from hyla.ops.exact import rows
from hyla.ops.weights import FP8Tensor, FP8Weights, dequantise, pack, pack_stack, quantise

SHAPES = ((8192, 2048), (2048, 8192), (6144, 3584))
ROWS = (1, 2, 4, 8, 16, 64)
COLD_BYTES = 160e6
"""FP8 bytes of the copies together: five times a last-level cache of 32 MB."""
EXPERTS, CHOSEN, HIDDEN, WIDTH = 64, 8, 1024, 512
ROUNDS = 5


def timed(calls: dict, copies: int, clock) -> dict[str, float]:
    """Microseconds per call of each form, the median of rounds; forms take turns."""
    seconds = {name: [] for name in calls}
    for turn in range(ROUNDS + 1):
        for name, call in calls.items():
            begin = clock()
            for copy in range(copies):
                call(copy)
            if turn:  # the first round warms up
                seconds[name].append((clock() - begin) / copies)
    return {name: round(statistics.median(times) * 1e6, 1) for name, times in seconds.items()}


def measure_product(out_dim: int, in_dim: int, clock, counts=ROWS) -> list[dict]:
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
        us = timed(calls, copies, clock)
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


def measure_experts(count: int, clock, layers: int = 6) -> dict:
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
    us = timed(calls, layers, clock)
    read = len(chosen[1].unique()) * 3 * HIDDEN * WIDTH
    line = {"experts_rows": count, "is_equal": is_equal, "us": us, "fp8_gb_per_s": round(read / us["fp8"] / 1e3, 1)}
    line["ratio_to_packed"] = round(us["fp8"] / us["bf16_packed"], 2)
    print(line, flush=True)
    return line


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-time", action="store_true", help="one thread's own time, where others use the machine")
    options = parser.parse_args()
    threads = 1 if options.cpu_time else options.threads
    clock = time.process_time if options.cpu_time else time.perf_counter
    torch.set_num_threads(threads)
    with torch.inference_mode():
        products = [line for shape in SHAPES for line in measure_product(*shape, clock)]
        experts = [measure_experts(count, clock) for count in (1, 8)]
    is_equal = all(line["is_equal"] for line in products + experts)
    worst = max(line["ratio_to_plain"] for line in products if line["shape"][0] == 1)
    result = {"bench": "fp8_product", "threads": threads, "is_equal": is_equal, "one_row_ratio_to_plain": worst}
    print(json.dumps({**result, "target_met": worst <= 1.0, "products": products, "experts": experts}))
    return 0 if is_equal and worst <= 1.0 else 1


if __name__ == "__main__":
    sys.exit(main())
