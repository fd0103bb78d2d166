"""What a recurrent state that is rounded after every token costs, beside one that is rounded once per chunk of 64.

    python -m bench state_rounding MODEL TEXT [--length 4096] [--dtype float32]

Engines that keep states in bf16 or fp16 read and write them for every decoded token. Ours reads an anchor and writes
it once per chunk, so `hyla align --way state-bf16` rounds 64 times as rarely. Here the recurrences are computed by
their references, token by token, with the state rounded after each, over a text; mean and largest difference of the
tokens' log-probabilities from the trainer's, by position. "fp32": not rounded, which is what the other order of sums
alone changes. One forward in Python for every token of every layer: slow.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from unittest import mock

import torch

from bench.outcome import Outcome
from hyla.align.config import AlignConfig
from hyla.align.prompts import read_tokens
from hyla.align.rounding import rounded
from hyla.align.run import Alignment, WayReport
from hyla.align.ways import EXACT, Way, way_of
from hyla.checkpoints import load_model, load_tokenizer, resolve
from hyla.errors import ConfigError
from hyla.ops.gated_delta import gated_delta
from hyla.ops.gated_delta.reference import gated_delta_reference
from hyla.ops.kda import kda
from hyla.ops.kda.reference import kda_reference
from hyla.ops.lightning import lightning
from hyla.ops.lightning.reference import lightning_reference
from hyla.ops.ssd import ssd
from hyla.ops.ssd.reference import ssd_reference

REFERENCES = {
    gated_delta: gated_delta_reference,
    kda: kda_reference,
    lightning: lightning_reference,
    ssd: ssd_reference,
}
LAYERS = ("gated_delta", "kda", "lightning", "mamba2")
CHUNKED = ("state-bf16", "state-bf16-stochastic", "state-fp16", "state-fp16-stochastic")


class EveryToken(Way):
    """The trainer's side with recurrences by their references, whose states are rounded after every token."""

    changes_engine, is_timed = False, False

    def __init__(self, name: str, dtype: torch.dtype | None, *, by_chance: bool = False):
        self.name = self.what = f"{name}, every token"
        self._dtype = dtype
        self._generator = torch.Generator().manual_seed(0) if by_chance else None

    def scoring(self):
        return _Patched(self._recur)

    def _recur(self, operator, *inputs, batch, cache, state_dtype="float32", **options):
        known = operator in REFERENCES and state_dtype == "float32"
        if cache is not None or batch.num_sequences != 1 or not known:
            raise ConfigError(f"one text, and no cache, for {operator.__name__}; there are {', '.join(LAYERS)}")
        outputs, state = [], None
        for t in range(batch.num_tokens):
            row = [x[t : t + 1] if isinstance(x, torch.Tensor) else x for x in inputs]
            found, state = REFERENCES[operator](*row, lengths=(1,), state_NHKV=state, **options)
            outputs.append(found)
            if self._dtype is not None:
                state = rounded(state, self._dtype, self._generator)
        return torch.cat(outputs)


class _Patched:
    """Layers whose `recur` is another, inside of a `with`."""

    def __init__(self, recur):
        self._patches = [mock.patch(f"hyla.layers.{layer}.recur", recur) for layer in LAYERS]

    def __enter__(self):
        for patch in self._patches:
            patch.start()

    def __exit__(self, *error):
        for patch in self._patches:
            patch.stop()


EVERY = (
    EveryToken("fp32", None),
    EveryToken("state-bf16", torch.bfloat16),
    EveryToken("state-bf16-stochastic", torch.bfloat16, by_chance=True),
    EveryToken("state-fp16", torch.float16),
    EveryToken("state-fp16-stochastic", torch.float16, by_chance=True),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model")
    parser.add_argument("text", type=Path)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--dtype", default=None)
    parser.add_argument("--temperature", type=float, default=1.0)


def run(options: argparse.Namespace) -> Outcome:
    place = resolve(options.model)
    tokenizer = load_tokenizer(place)
    alignment = Alignment(
        lambda: load_model(place, dtype=options.dtype),
        tokenizer,
        AlignConfig(temperature=options.temperature, tapped=0),
        text=read_tokens([options.text], tokenizer, options.length),
    )
    results = []
    for way in (EXACT, *map(way_of, CHUNKED), *EVERY):
        report = alignment.priced(way)
        results.append(_row(report))
        print(f"{report.name:36}", *(f"{mean:.1e} {largest:.1e}" for mean, largest in results[-1]["buckets"].values()))
    return Outcome(results, passed=results[0]["is_zero"])


def _row(report: WayReport) -> dict:
    by_end = {bucket.end: (bucket.figures.mean, bucket.figures.largest) for bucket in report.buckets}
    return {"way": report.name, "is_zero": report.is_zero, "buckets": by_end}
