"""The quickstart's model in each arithmetic: our kernels, PyTorch's operators, the portable ones of other devices.

    python -m bench arithmetics [--repeats 5] [--cpu-time]

Prefill of 512 tokens, a decode step of 1 and of 16 sequences, a training step of 1,024 tokens; the arithmetics take
turns. Each is checked first: a decoded row has the bits of its prefill.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

from bench.outcome import Outcome
from bench.timing import add_clock_option, alternated, chosen_clock, medians
from hyla.caches import Cache
from hyla.models.initialize import initialize
from hyla.models.objective import Targets
from hyla.models.trunk import Model
from hyla.ops import backends
from hyla.ops.batch import Batch
from hyla.ops.host_memory import keep_freed_memory
from hyla.train.recipe import HybridRecipe

ARITHMETICS = ("native", "torch", "portable")
PREFILL, SEQUENCES, TRAINED, ROWS = 512, 16, 1024, 512
END_OF_TEXT = 0


class Way:
    """One arithmetic's own copy of the model and caches: what one filled, another may not continue."""

    def __init__(self, name: str):
        self.name = name
        self.use()
        config = HybridRecipe().model_config_of(4096, END_OF_TEXT)
        self.trained = initialize(Model(config), 1)
        self.model = initialize(Model(config), 1).eval().pack()
        self.ids = torch.randint(1, 4096, (TRAINED + 1,), generator=torch.Generator().manual_seed(2))

    def use(self) -> None:
        backends.use(self.name)

    @torch.inference_mode()
    def prefill(self) -> torch.Tensor:
        self.use()
        cache = Cache(self.model.cache_specs(), num_pages=16, num_slots=1)
        return self.model(self.ids[:PREFILL], cache.batch([(cache.open(), PREFILL)]), cache.layers)

    def decoding(self, count: int) -> Callable[[], torch.Tensor]:
        """A step of `count` sequences, each after 20 tokens; every call adds a row."""
        self.use()
        cache = Cache(self.model.cache_specs(), num_pages=8 * count, num_slots=count)
        sequences = [cache.open() for _ in range(count)]

        @torch.inference_mode()
        def rows(each: int) -> torch.Tensor:
            self.use()
            start = sequences[0].length
            batch = cache.batch([(sequence, each) for sequence in sequences])
            hidden_TD = self.model(self.ids[start : start + each].repeat(count), batch, cache.layers)
            for sequence in sequences:
                cache.commit(sequence, each)
            return hidden_TD

        rows(20)
        return lambda: rows(1)

    def train(self) -> None:
        self.use()
        tokens, targets = self.ids[:-1], Targets(self.ids[1:], ROWS)
        self.trained(tokens, Batch.packed((TRAINED // 2,) * 2), targets=targets).total.backward()
        self.trained.zero_grad(set_to_none=True)

    def is_exact(self) -> bool:
        step = self.decoding(1)
        whole_TD = self.prefill()
        return torch.equal(step(), whole_TD[20:21]) and torch.equal(step(), whole_TD[21:22])


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=int, default=5)
    add_clock_option(parser)


def run(options: argparse.Namespace) -> Outcome:
    clock = chosen_clock(options)
    keep_freed_memory()
    ways = [Way(name) for name in ARITHMETICS]
    exact = {way.name: way.is_exact() for way in ways}
    figures = {
        "prefill_512_ms": {way.name: way.prefill for way in ways},
        "decode_1_ms": {way.name: way.decoding(1) for way in ways},
        "decode_16_ms": {way.name: way.decoding(SEQUENCES) for way in ways},
        "train_1024_ms": {way.name: way.train for way in ways},
    }
    results = {}
    for name, calls in figures.items():
        results[name] = medians(alternated(calls, options.repeats, clock=clock), 1e3, 2)
        print(name, results[name])
    return Outcome({"is_exact": exact, **results}, passed=all(exact.values()))
