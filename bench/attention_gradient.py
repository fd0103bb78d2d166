"""Softmax attention forward and backward: the kernels, their forward with PyTorch's backward, and PyTorch's function.

2,048 tokens in one document or in four: 8 heads of 64, 8 query and 2 key heads of 128, the quickstart's MLA (4 heads,
latent keys of 48, values of 32), DeepSeek's latent with 4 heads, 8 heads of 192 with values of 128, a window of 128.
Every case first compares the gradients with those of float64. Ways take turns. PyTorch's function gets documents of one
length as a batch, and a mask where there is a window.

    python -m bench attention_gradient --cpu-time
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import torch
from torch.nn.functional import scaled_dot_product_attention

from bench.outcome import Outcome
from bench.timing import Clock, add_clock_option, alternated, chosen_clock, medians
from hyla.ops import backends
from hyla.ops.attention import attention, native, pytorch
from hyla.ops.attention.gradient import Attention
from hyla.ops.batch import Batch
from hyla.ops.host_memory import keep_freed_memory

TOKENS = 2048
ERROR = 1e-5
"""Relative error of a gradient against float64."""
MIXED = SimpleNamespace(forward=native.forward, backward=pytorch.backward)


@dataclass(frozen=True)
class Case:
    heads: int
    key_heads: int
    key_dim: int
    value_dim: int
    window: int | None = None
    is_latent: bool = False
    """The values are the first channels of the keys."""

    @property
    def scale(self) -> float:
        return self.key_dim**-0.5


CASES = {
    "8 heads of 64": Case(8, 8, 64, 64),
    "8/2 heads of 128": Case(8, 2, 128, 128),
    "MLA 4 x 48/32": Case(4, 1, 48, 32, is_latent=True),
    "MLA 4 x 576/512": Case(4, 1, 576, 512, is_latent=True),
    "8 heads of 192/128": Case(8, 8, 192, 128),
    "8 heads of 64, window 128": Case(8, 8, 64, 64, 128),
    "8/2 heads of 128, window 128": Case(8, 2, 128, 128, 128),
}


def draw(case: Case, dtype: torch.dtype) -> tuple[list[torch.Tensor], torch.Tensor]:
    """q (fp32, as layers give it), k, v if there are any, and the gradient of the outputs."""
    generator = torch.Generator().manual_seed(1)
    shapes = [(case.heads, case.key_dim), (case.key_heads, case.key_dim), (case.key_heads, case.value_dim)]
    shapes = shapes[:2] if case.is_latent else shapes
    q, *others = (torch.randn(TOKENS, *shape, generator=generator) for shape in shapes)
    leaves = [q, *(x.to(dtype) for x in others)]
    grad = torch.randn(TOKENS, case.heads, case.value_dim, generator=generator)
    return [x.requires_grad_() for x in leaves], grad


def split(leaves: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    return leaves[0], leaves[1], leaves[2] if len(leaves) > 2 else None


def ours(case: Case, batch: Batch, backend, leaves, grad) -> list[torch.Tensor]:
    q, k, v = split(leaves)
    options = {"batch": batch, "scale": case.scale, "value_dim": case.value_dim, "window": case.window}
    if backend is None:
        o_THV = attention(q, k, v, cache=None, **options)
    else:
        o_THV = Attention.apply(q, k, v, None, backend, options)
    return list(torch.autograd.grad(o_THV, leaves, grad))


def theirs(case: Case, documents: int, mask: torch.Tensor | None, leaves, grad) -> list[torch.Tensor]:
    q, k, v = split(leaves)
    v = k[..., : case.value_dim] if v is None else v
    by_head = [x.to(q.dtype).unflatten(0, (documents, -1)).transpose(1, 2) for x in (q, k, v)]
    options = {"scale": case.scale, "enable_gqa": case.heads != case.key_heads}
    options |= {"is_causal": True} if mask is None else {"attn_mask": mask}
    o = scaled_dot_product_attention(*by_head, **options)
    return list(torch.autograd.grad(o.transpose(1, 2).flatten(0, 1), leaves, grad))


def window_mask(length: int, window: int | None, dtype: torch.dtype) -> torch.Tensor | None:
    if window is None:
        return None
    far = torch.arange(length)[:, None] - torch.arange(length)
    return torch.zeros(length, length, dtype=dtype).masked_fill((far < 0) | (far >= window), float("-inf"))


def measure(case: Case, documents: int, dtype: torch.dtype, repeats: int, clock: Clock) -> dict:
    """Milliseconds of a forward and a backward pass together, and of the forward alone."""
    leaves, grad = draw(case, dtype)
    length = TOKENS // documents
    batch = Batch.packed([length] * documents)
    wide = [x.detach().double().requires_grad_() for x in leaves]
    right = theirs(case, documents, window_mask(length, case.window, torch.float64), wide, grad.double())
    bound = ERROR if dtype == torch.float32 else 2.0**-8
    found = ours(case, batch, None, leaves, grad)
    is_right = all((x - y).norm() <= bound * y.norm() for x, y in zip(found, right, strict=True))
    options = {"batch": batch, "scale": case.scale, "value_dim": case.value_dim, "window": case.window}
    ways = {
        "native": partial(ours, case, batch, None, leaves, grad),
        "before": partial(ours, case, batch, MIXED, leaves, grad),
        "sdpa": partial(theirs, case, documents, window_mask(length, case.window, torch.float32), leaves, grad),
        "forward": torch.no_grad()(partial(attention, *split(leaves), cache=None, **options)),
    }
    times = medians(alternated(ways, repeats, clock=clock), 1e3)
    backward = {name: times[name] - times["forward"] for name in ("native", "before")}
    ratios = {
        "backward_over_before": round(backward["native"] / backward["before"], 3),
        "native_over_before": round(times["native"] / times["before"], 3),
        "native_over_sdpa": round(times["native"] / times["sdpa"], 3),
    }
    return {"is_right": bool(is_right), **times, **ratios}


def add_options(parser: argparse.ArgumentParser) -> None:
    add_clock_option(parser)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], help="of keys and values")
    parser.add_argument("--cases", nargs="+", choices=tuple(CASES), default=tuple(CASES))


def run(options: argparse.Namespace) -> Outcome:
    keep_freed_memory()
    clock = chosen_clock(options)
    backends.use("native")
    results = {}
    for dtype in (getattr(torch, name) for name in options.dtypes):
        for name in options.cases:
            for documents in (1, 4):
                key = f"{name}, {documents} documents, {str(dtype).removeprefix('torch.')}"
                results[key] = measure(CASES[name], documents, dtype, options.repeats, clock)
                print(f"{key:54} {results[key]}", flush=True)
    backends.use("auto")
    return Outcome(results, passed=all(result["is_right"] for result in results.values()))
