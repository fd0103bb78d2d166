"""The delta rules' backward pass by the CPU's own kernel, beside the native forward and PyTorch's backward.

Each shape is checked against PyTorch's gradients first; then the native forward (which keeps u and the anchors), the
native backward and PyTorch's backward from the same forward take turns in one process.

    python -m bench delta_gradients [--threads 1] [--cpu-time] [--repeats 5]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module

import torch

from bench.outcome import Outcome
from bench.timing import add_clock_option, alternated, chosen_clock, medians
from hyla.ops.batch import Batch
from hyla.ops.host_memory import keep_freed_memory

THREADS = 1
TOKENS = 2048
DOCUMENTS = (512, 2048)
SHAPES = ((4, 32), (4, 64), (8, 64), (4, 128), (8, 128))
"""Heads, and channels of keys and of values."""
ERROR = 1e-5
"""Largest difference from PyTorch's gradients, of each tensor's largest element."""


def add_options(parser: argparse.ArgumentParser) -> None:
    add_clock_option(parser)
    parser.add_argument("--repeats", type=int, default=5)


def inputs(operator: str, heads: int, width: int) -> list[torch.Tensor]:
    """q, k, v, log decay, beta and the gradient of the outputs."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(TOKENS, heads, *shape, generator=generator)

    q, k = (torch.nn.functional.normalize(draw(width), dim=-1) for _ in range(2))
    decay = -0.1 * draw(*((width,) if operator == "kda" else ())).abs()
    return [q, k, draw(width), decay, draw().sigmoid(), draw(width)]


def calls(operator: str, heads: int, width: int, document: int) -> tuple[dict[str, Callable], float]:
    """What is timed, and how far the two backward passes are apart."""
    native, pytorch = (import_module(f"hyla.ops.{operator}.{name}") for name in ("native", "pytorch"))
    *rows, grad_o = inputs(operator, heads, width)
    batch = Batch.packed([document] * (TOKENS // document))

    def forward():
        return native.forward(rows, batch=batch, keep=True)

    found = forward()
    kept = (found.u_IHCV, found.anchors_IHKV)

    def backward(module):
        return lambda: module.backward(rows, kept, grad_o, None, batch=batch, has_state=False)[0]

    pairs = zip(backward(native)(), backward(pytorch)())
    apart = max(((x - y).abs().max() / y.abs().max()).item() for x, y in pairs)
    return {"forward": forward, "native": backward(native), "torch": backward(pytorch)}, apart


def run(options: argparse.Namespace) -> Outcome:
    keep_freed_memory()
    clock = chosen_clock(options)
    results, seconds = {}, {}
    for operator in ("gated_delta", "kda"):
        for heads, width in SHAPES:
            for document in DOCUMENTS:
                name = f"{operator}, {heads} heads of {width}, documents of {document}"
                ways, apart = calls(operator, heads, width, document)
                taken = alternated(ways, options.repeats, clock=clock)
                found = medians(taken, 1e3)
                seconds[name] = taken["native"]
                results[name] = {
                    **found,
                    "over_forward": round(found["native"] / found["forward"], 2),
                    "torch_over_native": round(found["torch"] / found["native"], 2),
                    "both": round((found["forward"] + found["torch"]) / (found["forward"] + found["native"]), 2),
                    "apart": apart,
                }
                print(f"{name:50} {results[name]}", flush=True)
    return Outcome(results, passed=all(found["apart"] <= ERROR for found in results.values()), seconds=seconds)
