"""A hybrid beside its full-attention twin: cache bytes and milliseconds per decoded token at several contexts.

The caches are filled with random values, not by reading a text of that length: bytes and time do not depend on what
is remembered, only on how much.

On a machine that does other things too, two figures can be compared only if both met the same neighbours. So models and
contexts take turns, a few tokens each, over several rounds. Of a turn the fastest token counts (the others were
interrupted more), of the turns the median.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from hyla.caches import Cache
from hyla.grid import CHUNK
from hyla.models.trunk import Model
from hyla.ops.devices import synchronize

CONTEXTS = (1024, 4096, 16384, 65536)
ROUNDS = 15
WARMUP_TOKENS, TIMED_TOKENS = 1, 4
"""Of one turn. The first token finds the neighbour's weights in the processor's cache."""
FILL_STD = 0.1

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class DecodePoint:
    """Decoding one sequence at one context length (tokens before the decoded ones)."""

    context: int
    cache_bytes: int
    ms_per_token: float


class Decoder:
    """A packed model with one sequence after a synthetic context; each call decodes one more token.

    context: a multiple of 64 tokens, so that no chunk is open. num_tokens: most calls.
    """

    def __init__(self, model: Model, context: int, num_tokens: int):
        self.model = model
        specs = model.cache_specs()
        self.cache_bytes = sum(spec.bytes_at(context) for spec in specs)
        self.cache = Cache(specs, num_pages=-(-(context + num_tokens) // CHUNK), num_slots=1, device=model.device)
        self.sequence = self.cache.open()
        self.cache.batch([(self.sequence, context)])
        self.cache.commit(self.sequence, context)
        self._fill(torch.Generator().manual_seed(context))
        self.token = torch.tensor([1], device=model.device)

    def _fill(self, generator: torch.Generator) -> None:
        for layer in self.cache.layers:
            for tensor in layer.values():
                if tensor.is_floating_point():
                    # Drawn on the CPU, so that every device remembers the same.
                    drawn = torch.empty(tensor.shape, dtype=tensor.dtype).normal_(std=FILL_STD, generator=generator)
                    tensor.copy_(drawn)

    @torch.no_grad()
    def __call__(self) -> None:
        hidden_TD = self.model(self.token, self.cache.batch([(self.sequence, 1)]), self.cache.layers)
        self.model.head_logits(hidden_TD)
        self.cache.commit(self.sequence, 1)
        synchronize(self.model.device)


def measure_in_turns(
    calls: Mapping[Key, Callable[[], None]], *, rounds: int = ROUNDS, clock: Callable[[], float] = time.perf_counter
) -> dict[Key, float]:
    """Seconds of each call. In every round each one has its turn, of WARMUP_TOKENS + TIMED_TOKENS calls.

    clock: seconds since some moment.
    """
    seconds: dict[Key, list[float]] = {key: [] for key in calls}
    for _ in range(rounds):
        for key, call in calls.items():
            for _ in range(WARMUP_TOKENS):
                call()
            seconds[key].append(min(_timed(call, clock) for _ in range(TIMED_TOKENS)))
    return {key: statistics.median(each) for key, each in seconds.items()}


def _timed(call: Callable[[], None], clock: Callable[[], float]) -> float:
    started = clock()
    call()
    return clock() - started


def decode_curves(
    models: Mapping[str, Model], contexts: Sequence[int] = CONTEXTS, *, rounds: int = ROUNDS
) -> dict[str, list[DecodePoint]]:
    """A `DecodePoint` of every model at every context, measured in turns; the models are packed meanwhile."""
    num_tokens = rounds * (WARMUP_TOKENS + TIMED_TOKENS)
    with ExitStack() as packed:
        for model in models.values():
            packed.enter_context(_packed(model))
        # Neighbours in this order are what the table compares.
        decoders = {
            (name, context): Decoder(model, context, num_tokens)
            for context in contexts
            for name, model in models.items()
        }
        seconds = measure_in_turns(decoders, rounds=rounds)
    return {
        name: [
            DecodePoint(context, decoders[name, context].cache_bytes, 1000.0 * seconds[name, context])
            for context in contexts
        ]
        for name in models
    }


@contextmanager
def _packed(model: Model):
    model.pack()
    try:
        yield
    finally:
        model.unpack()


def plot_curves(curves: dict[str, list[dict]], path: Path) -> None:
    """Two panels over the context length: cache size, logarithmic, and time per decoded token, from zero.

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
        panel.set(xscale="log", title=title, xlabel="context, tokens", ylabel=unit)
        panel.set_xticks(contexts, [f"{context // 1024}k" for context in contexts], minor=False)
        panel.xaxis.set_minor_locator(NullLocator())
        panel.grid(True, alpha=0.3)
        panel.legend()
    panels[0].set_yscale("log")
    panels[0].yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    panels[0].yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    panels[0].yaxis.set_minor_formatter(NullFormatter())
    panels[1].set_ylim(bottom=0.0)
    figure.suptitle("Hybrid against its full-attention twin (caches filled with random values)", fontsize=10)
    figure.savefig(path, dpi=130)
