"""A hybrid beside its full-attention twin: cache bytes and milliseconds per decoded token at several contexts.

The caches are filled with random values, not by reading a text of that length: bytes and time do not depend on what
is remembered, only on how much.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from hyla.caches import Cache
from hyla.grid import CHUNK
from hyla.models.trunk import Model
from hyla.ops.devices import synchronize

CONTEXTS = (1024, 4096, 16384, 65536)
WARMUP_TOKENS, TIMED_TOKENS = 3, 15
FILL_STD = 0.1


@dataclass(frozen=True)
class DecodePoint:
    """Decoding one sequence at one context length (tokens before the decoded ones)."""

    context: int
    cache_bytes: int
    ms_per_token: float


@torch.no_grad()
def decode_point(model: Model, context: int) -> DecodePoint:
    """Measure a packed model after a synthetic context, a multiple of 64 tokens (so that no chunk is open)."""
    num_tokens = WARMUP_TOKENS + TIMED_TOKENS
    specs = model.cache_specs()
    cache = Cache(specs, num_pages=-(-(context + num_tokens) // CHUNK), num_slots=1, device=model.device)
    sequence = cache.open()
    cache.batch([(sequence, context)])
    cache.commit(sequence, context)
    generator = torch.Generator().manual_seed(context)
    for layer in cache.layers:
        for tensor in layer.values():
            if tensor.is_floating_point():
                # Drawn on the CPU, so that every device remembers the same.
                tensor.copy_(torch.empty(tensor.shape, dtype=tensor.dtype).normal_(std=FILL_STD, generator=generator))
    seconds = []
    for token in range(num_tokens):
        synchronize(model.device)
        started = time.perf_counter()
        hidden_TD = model(torch.tensor([token], device=model.device), cache.batch([(sequence, 1)]), cache.layers)
        model.head_logits(hidden_TD)
        cache.commit(sequence, 1)
        synchronize(model.device)
        seconds.append(time.perf_counter() - started)
    held = sum(spec.bytes_per_token * context + spec.bytes_per_sequence for spec in specs)
    return DecodePoint(context, held, 1000.0 * statistics.median(seconds[WARMUP_TOKENS:]))


def decode_curve(model: Model, contexts: Sequence[int] = CONTEXTS) -> list[DecodePoint]:
    """`decode_point` at every context; the model is packed meanwhile."""
    model.pack()
    try:
        return [decode_point(model, context) for context in contexts]
    finally:
        model.unpack()


def plot_curves(curves: dict[str, list[dict]], path: Path) -> None:
    """Two panels over the context length, both axes logarithmic: cache size, and time per decoded token.

    curves: label -> `DecodePoint`s as dicts.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, StrMethodFormatter

    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2)
    for label, marker, (name, points) in zip(("-", "--"), "os", curves.items()):
        contexts = [point["context"] for point in points]
        panels[0].plot(contexts, [p["cache_bytes"] / 2**20 for p in points], label, marker=marker, label=name)
        panels[1].plot(contexts, [p["ms_per_token"] for p in points], label, marker=marker, label=name)
    for panel, title, unit in zip(panels, ("Cache of one sequence", "Time of one decoded token"), ("MiB", "ms")):
        panel.set(xscale="log", yscale="log", title=title, xlabel="context, tokens", ylabel=unit)
        panel.set_xticks(contexts, [f"{context // 1024}k" for context in contexts], minor=False)
        panel.xaxis.set_minor_locator(NullLocator())
        panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        panel.yaxis.set_minor_formatter(NullFormatter())
        panel.grid(True, alpha=0.3)
        panel.legend()
    figure.suptitle("Hybrid against its full-attention twin (caches filled with random values)", fontsize=10)
    figure.savefig(path, dpi=130)
