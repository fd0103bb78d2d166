"""Which functions give a row the same bits whatever other rows come with it.

    python -m bench invariance [--device cuda] [--quick]

Every function that `ops/exact/rows.py` and `ops/exact/primitives/` are made of or export ("used"), and the library
functions that they stand in for ("library"), over row counts, widths, offsets, strides, one and two threads, fp32 and
bf16. The exit status is 1 if a used function is not row-invariant on this machine. Library functions that are ("ok")
may only happen to be so here.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from bench.outcome import Outcome
from hyla.ops.backends import is_portable
from hyla.ops.exact import batched, primitives, row_checks, rows
from hyla.ops.exact.logprobs import log_sums
from hyla.ops.moe import top_k
from hyla.ops.weights import pack

ROWS = 101
COUNTS = (*range(1, 34), 40, 47, 48, 63, 64, 65, 72, 96, 99, 100)
QUICK_COUNTS = (1, 2, 3, 7, 8, 17, 33, 64, 100)
WIDTHS = (1, 20, 36, 48, 1000)
WIDE = (4096, 40_000, 151_936)
WEIGHTS = ((36, 20), (1, 64), (20, 1), (1000, 48), (48, 1000), (129, 36), (1024, 3584))
QUICK_WEIGHTS = ((36, 20), (1, 64), (129, 36))
MATRICES = ((20, 36), (48, 16), (64, 1), (3, 5), (128, 64))
DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class Probe:
    """A function of rows [R, W] -> [R, ...]. is_used: Hyla relies on it. Layouts: also call it on strided views."""

    name: str
    call: Callable[[torch.Tensor], torch.Tensor]
    is_used: bool
    widths: tuple[int, ...] = WIDTHS
    has_layouts: bool = True
    dtypes: tuple[torch.dtype, ...] = DTYPES


def _positive(call):
    return lambda x: call(x.abs() + 1e-3)


def element_probes() -> list[Probe]:
    """Element-wise functions. The used ones run in fp32 only where Hyla calls them in fp32 only."""
    fp32 = (torch.float32,)
    used = {
        "exp": torch.exp,
        "log": _positive(torch.log),
        "log1p": _positive(torch.log1p),
        "sqrt": _positive(torch.sqrt),
        "cos": torch.cos,
        "sin": torch.sin,
        "x / (1 + |x|)": lambda x: x / (1.0 + x.abs()),
        "mul, add": lambda x: x * 1.7 + x,
        "to bf16": lambda x: (x * 1.7).bfloat16(),
        "primitives.sigmoid": primitives.sigmoid,
        "primitives.silu": primitives.silu,
        "primitives.softplus": primitives.softplus,
    }
    library = {
        "torch.sigmoid": torch.sigmoid,
        "F.silu": F.silu,
        "F.softplus": F.softplus,
        "torch.tanh": torch.tanh,
        "torch.rsqrt": _positive(torch.rsqrt),
        "torch.addcmul": lambda x: torch.addcmul(x, x, x, value=0.3),
    }
    probes = [Probe(name, call, True, dtypes=fp32) for name, call in used.items()]
    probes.append(Probe("primitives.swiglu", lambda x: primitives.swiglu(x, x * 0.7), True))
    return probes + [Probe(name, call, False) for name, call in library.items()]


def row_probes(is_portable: bool) -> list[Probe]:
    """Functions of whole rows. The portable arithmetic does without the library's sums."""
    fp32, wide = (torch.float32,), WIDTHS + WIDE
    ones = dict.fromkeys(wide)

    def rms_norm(x: torch.Tensor) -> torch.Tensor:
        ones[x.shape[-1]] = torch.ones(x.shape[-1], device=x.device)
        return primitives.rms_norm(x, ones[x.shape[-1]], eps=1e-6)

    used = {
        "amax(-1)": (lambda x: x.amax(-1), wide),
        "stable sort": (lambda x: x.round().sort(dim=-1, stable=True)[1], WIDTHS),
        "moe.top_k": (lambda x: top_k(x.round(), min(4, x.shape[-1])), WIDTHS),
        "primitives.sum_last": (primitives.sum_last, wide),
        "primitives.l2_norm": (primitives.l2_norm, WIDTHS),
        "primitives.softmax_last": (primitives.softmax_last, wide),
        "logprobs.log_sums": (lambda x: torch.stack(log_sums(x), 1), wide),
    }
    sums = {
        "sum(-1), mean(-1) up to 4096": (lambda x: x.contiguous().sum(-1) + x.contiguous().mean(-1), (*WIDTHS, 4096)),
        "cumsum(-1)": (lambda x: x.contiguous().cumsum(-1), WIDTHS),
    }
    library = {
        "sum(-1), wide": lambda x: x.sum(-1),
        "F.softmax": lambda x: F.softmax(x, dim=-1),
        "logsumexp": lambda x: x.logsumexp(-1),
        "F.rms_norm": lambda x: F.rms_norm(x, (x.shape[-1],)),
        "F.layer_norm": lambda x: F.layer_norm(x, (x.shape[-1],)),
        "vector_norm": lambda x: torch.linalg.vector_norm(x, dim=-1),
        "topk (ties)": lambda x: x.round().topk(min(4, x.shape[-1]), dim=-1)[1],
        "sum(0) of the transpose": lambda x: x.t().contiguous().sum(0),
    }
    probes = [Probe(name, call, True, widths, dtypes=fp32) for name, (call, widths) in used.items()]
    probes += [Probe(name, call, not is_portable, widths, dtypes=fp32) for name, (call, widths) in sums.items()]
    probes.append(Probe("primitives.rms_norm", rms_norm, True))
    return probes + [Probe(name, call, False, wide) for name, call in library.items()]


def check(probe: Probe, width: int, dtype: torch.dtype, device: torch.device, counts) -> str:
    """What changes a row's bits: "rows", "strides", or nothing."""
    num_rows = ROWS if width <= 4096 else 9
    generator = torch.Generator().manual_seed(width)
    x = torch.randn(num_rows, width, generator=generator) * torch.exp2(
        torch.randn(num_rows, width, generator=generator)
    )
    x = x.to(device=device, dtype=dtype)
    expected = probe.call(x)
    # Kernels change with the count of elements; on wide rows a third of the counts shows it.
    for count in (count for count in counts[:: 1 if width < 100 else 3] if count <= num_rows):
        for first in {0, min(3, num_rows - count), num_rows - count}:
            if not torch.equal(probe.call(x[first : first + count].clone()), expected[first : first + count]):
                return f"rows ({count})"
    if probe.has_layouts:
        padded = torch.zeros(num_rows, width + 5, dtype=dtype, device=device)
        padded[:, 3:-2] = x
        for strided in (padded[:, 3:-2], x.t().contiguous().t()):
            if not torch.equal(probe.call(strided), expected):
                return "strides"
    return ""


def check_product(call, x: torch.Tensor, counts) -> str:
    """Rows of a product [.., M, K] -> [.., M, N] for other numbers of rows."""
    expected = call(x)
    for count in counts:
        for first in {0, x.shape[-2] - count}:
            if not torch.equal(call(x[..., first : first + count, :]), expected[..., first : first + count, :]):
                return f"rows ({count})"
    return ""


def product_results(dtype, device, counts, weights) -> Iterator[tuple[str, bool, str, str]]:
    """(name, is_used, shape, verdict) of matrix products. The data cancel, so that every rounding shows."""
    generator = torch.Generator().manual_seed(7)
    for out_dim, in_dim in weights:
        weight = row_checks.check_data(out_dim, in_dim, generator, -1.0).to(device=device, dtype=dtype)
        x = row_checks.check_data(ROWS, in_dim, generator, 1.0).to(device=device, dtype=dtype)
        packed, shape = pack(weight), f"{out_dim}x{in_dim}"
        some = counts if out_dim * in_dim < 1 << 20 else QUICK_COUNTS
        plain = rows.linear(x, weight)
        verdict = "" if torch.equal(packed.product(x), plain) else "packing"
        yield "rows.linear", True, shape, verdict or check_product(lambda x, w=weight: rows.linear(x, w), x, some)
        yield "rows.linear, packed", True, shape, check_product(lambda x, w=packed: w.product(x), x, some)
        yield "F.linear", False, shape, check_product(lambda x, w=weight: F.linear(x, w), x, some)
    for inner, columns in MATRICES:
        batch = 9
        a = row_checks.check_data(batch * ROWS, inner, generator, 1.0).view(batch, ROWS, inner)
        b = row_checks.check_data(batch * columns, inner, generator, -1.0).view(batch, columns, inner).transpose(1, 2)
        a, b = (data.to(device=device, dtype=dtype).contiguous() for data in (a, b))
        shape = f"{inner}x{columns}"
        for name, is_used, call in (("batched.bmm", True, batched.bmm), ("torch.bmm", False, torch.bmm)):
            verdict = check_product(lambda a, b=b, call=call: call(a.contiguous(), b), a, counts)
            expected = call(a, b)
            same = all(torch.equal(call(a[:n], b[:n]), expected[:n]) for n in (1, 2, 3, 8))
            yield name, is_used, shape, verdict or ("" if same else "batch")


def verdicts_of(
    device: torch.device, threads, counts, weights, wide: bool
) -> dict[tuple[str, bool], dict[str, list[str]]]:
    """Verdicts by (name, is_used), then by "dtype, threads": the widths or shapes at which a row's bits change."""
    found: dict[tuple[str, bool], dict[str, list[str]]] = {}
    before = torch.get_num_threads()
    for num_threads in threads:
        torch.set_num_threads(num_threads)
        for dtype in DTYPES:
            column = f"{'fp32' if dtype == torch.float32 else 'bf16'}, {num_threads}"
            for probe in element_probes() + row_probes(is_portable(device)):
                if dtype not in probe.dtypes:
                    continue
                verdicts = found.setdefault((probe.name, probe.is_used), {}).setdefault(column, [])
                for width in probe.widths:
                    verdict = check(probe, width, dtype, device, counts) if wide or width not in WIDE else ""
                    if verdict:
                        verdicts.append(f"{width}: {verdict}")
            for name, is_used, shape, verdict in product_results(dtype, device, counts, weights):
                verdicts = found.setdefault((name, is_used), {}).setdefault(column, [])
                if verdict:
                    verdicts.append(f"{shape}: {verdict}")
    torch.set_num_threads(before)
    return found


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="fewer row counts, shapes and widths")


def run(options: argparse.Namespace) -> Outcome:
    device, start = torch.device(options.device), time.perf_counter()
    threads = (1, 2) if device.type == "cpu" else (torch.get_num_threads(),)
    counts, weights = (QUICK_COUNTS, QUICK_WEIGHTS) if options.quick else (COUNTS, WEIGHTS)
    with torch.no_grad():
        found = verdicts_of(device, threads, counts, weights, wide=not options.quick)
    broken = {}
    for (name, is_used), columns in sorted(found.items(), key=lambda item: (not item[0][1], item[0][0])):
        varying = {column: verdicts for column, verdicts in columns.items() if verdicts}
        summary = " | ".join(f"{column}: {'; '.join(verdicts)}" for column, verdicts in varying.items())
        print(f"{'used' if is_used else 'library':8}{name:30}{summary or 'ok'}")
        if varying and is_used:
            broken[name] = varying
    library = sorted({name for (name, is_used), columns in found.items() if not is_used and any(columns.values())})
    report = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "broken": broken,
        "library_functions_that_vary": library,
        "seconds": round(time.perf_counter() - start, 1),
    }
    return Outcome(report, passed=not broken)
