"""Backward passes of the operators without a solve: the CPU's kernel beside PyTorch's operators and beside the forward.

    python -m bench decay_gradients [--rounds 9] [--threads 1] [--cpu-time]

2,048 tokens, 8 heads, of 64 and of 128 channels; four documents of 512 and one. Both ways get what the kernel's forward
pass kept; they are compared first, then timed in turn. Targets: the backward pass takes at most 2.5 times as long as
the native forward, and at most half of what PyTorch's operators take.
"""

from __future__ import annotations

import argparse
import statistics
from importlib import import_module

import torch

from bench.outcome import Outcome
from bench.timing import add_clock_option, alternated, chosen_clock
from hyla.ops import backends
from hyla.ops.batch import Batch
from hyla.ops.chunks.constant_decay import ConstantDecay, decay_table
from hyla.ops.gla.rule import ChannelDecay
from hyla.ops.host_memory import keep_freed_memory
from hyla.ops.linear.cost import row_width
from hyla.ops.ssd.rule import SummedDecay

TOKENS, HEADS = 2048, 8
THREADS = 1
DOCUMENTS = {"4x512": (512,) * 4, "1x2048": (2048,)}
OF_FORWARD, OF_TORCH = 2.5, 0.5
ERROR = 1e-5
"""Largest difference of the two ways, relative to the largest gradient."""
CASES = {
    "lightning": ("lightning", HEADS),
    "ssd": ("ssd", HEADS),
    "ssd, keys shared": ("ssd", 1),
    "linear": ("linear", HEADS),
    "gla": ("gla", HEADS),
}
"""By name: the operator, and its groups of keys."""


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rule_and_inputs(operator: str, groups: int, dim: int):
    """The rule of an operator, q, k, v and its decays."""
    q, k = (draw(TOKENS, groups, dim, seed=seed) * dim**-0.5 for seed in (0, 1))
    v = draw(TOKENS, HEADS, row_width(dim) if operator == "linear" else dim, seed=2)
    if operator == "ssd":
        return SummedDecay(), (q, k, v, -0.1 * draw(TOKENS, HEADS, seed=3).abs())
    if operator == "gla":
        return ChannelDecay(), (q, k, v, -0.1 * draw(TOKENS, HEADS, dim, seed=3).abs())
    slopes = tuple(0.02 * head if operator == "lightning" else 0.0 for head in range(HEADS))
    return ConstantDecay(decay_table(slopes, v.dtype, v.device)), (q, k, v)


def measure(operator: str, groups: int, dim: int, lengths: tuple[int, ...], rounds: int, clock) -> dict:
    """Milliseconds of each way, and the ratios that count."""
    native, pytorch = (import_module(f"hyla.ops.{operator}.{name}") for name in ("native", "pytorch"))
    rule, inputs = rule_and_inputs(operator, groups, dim)
    batch = Batch.packed(lengths)

    def forward():
        return native.forward(rule, inputs, batch=batch, keep=True)

    anchors = forward().anchors_IHKV
    grad_o = draw(*inputs[2].shape, seed=5)
    ways = {"forward": forward}
    for name, module in (("native", native), ("torch", pytorch)):
        ways[name] = lambda module=module: module.backward(
            rule, inputs, anchors, grad_o, None, batch=batch, has_state=False
        )
    pairs = zip(ways["native"]().inputs, ways["torch"]().inputs)
    is_right = all(((a - b).abs().max() <= ERROR * b.abs().max()).item() for a, b in pairs)
    times = alternated(ways, rounds, clock=clock)
    of = {way: statistics.median(a / b for a, b in zip(times["native"], times[way])) for way in ("forward", "torch")}
    found = {f"{name}_ms": round(1e3 * statistics.median(values), 2) for name, values in times.items()}
    both = [(f + t) / (f + n) for f, n, t in zip(times["forward"], times["native"], times["torch"])]
    return found | {
        "is_right": is_right,
        "of_forward": round(of["forward"], 2),
        "of_torch": round(of["torch"], 3),
        "both_passes_faster": round(statistics.median(both), 2),
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=9)
    add_clock_option(parser)


def run(options: argparse.Namespace) -> Outcome:
    clock = chosen_clock(options)
    keep_freed_memory()
    backends.use("native")
    results, passed = {}, True
    for name, (operator, groups) in CASES.items():
        for dim in (64, 128):
            for documents, lengths in DOCUMENTS.items():
                found = measure(operator, groups, dim, lengths, options.rounds, clock)
                passed &= found["is_right"] and found["of_forward"] <= OF_FORWARD and found["of_torch"] <= OF_TORCH
                results[f"{name}, {dim}, {documents}"] = found
                print(f"{name + ', ' + str(dim) + ', ' + documents:32} {found}", flush=True)
    backends.use("auto")
    return Outcome(results, passed=passed)
