"""What choosing one token costs for a vocabulary of 151,936: milliseconds of processor time per row, one thread.

Each way of sampling is first compared with a plain one that sorts the vocabulary and takes every logarithm, over many
rows; then both are timed. Target: well under 5 ms for a row with top-k and top-p.

    python -m bench sampling
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time

import numpy as np
import tokenizers
import torch

from bench.outcome import Outcome
from bench.timing import timed
from hyla.checkpoints import Tokenizer
from hyla.engine import JsonSchema, Regex, SamplingParams
from hyla.engine.sampling.choosing import Chooser
from hyla.engine.sampling.grammar import GrammarCompiler
from hyla.engine.sampling.noise import NoiseKey, first_words, gumbel

VOCAB, TARGET_MS, THREADS = 151_936, 5.0, 1
PROMPT = list(range(100, 1100))
WAYS = {
    "greedy, penalties": {"temperature": 0.0, "repetition_penalty": 1.1, "frequency_penalty": 0.2},
    "temperature": {"temperature": 0.8},
    "top-k 50": {"temperature": 0.8, "top_k": 50},
    "top-p 0.95": {"temperature": 0.8, "top_p": 0.95},
    "top-k 50, top-p 0.95": {"temperature": 0.8, "top_k": 50, "top_p": 0.95},
    "min-p 0.05": {"temperature": 0.8, "min_p": 0.05},
    "all filters and penalties": {
        "temperature": 0.8,
        "top_k": 200,
        "top_p": 0.95,
        "min_p": 0.01,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.5,
    },
}
SPREADS = {"peaked": 4.0, "flat": 0.5}
"""Standard deviations of the logits: an ordinary row keeps tens of tokens, a flat one tens of thousands."""
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "tags": {"type": "array", "items": {"type": "string"}}},
    "required": ["name", "tags"],
}


def rows(spread: float, count: int = 24) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(VOCAB, generator=generator) * spread for _ in range(count)]


def plain_choice(row: torch.Tensor, params: SamplingParams, position: int) -> int:
    """The same token by sorting everything."""
    x = row.double().numpy().copy()
    seen = np.array(PROMPT)
    x[seen] = np.where(x[seen] > 0, x[seen] / params.repetition_penalty, x[seen] * params.repetition_penalty)
    if params.temperature == 0:
        return int(x.argmax())
    x = (x - x.max()) / params.temperature
    order = np.argsort(-x, kind="stable")
    order = order[: params.top_k or VOCAB]
    weights = np.exp(x[order])
    if params.top_p < 1:
        order = order[: int((weights.cumsum() < params.top_p * weights.sum()).sum()) + 1]
    order = order[np.exp(x[order]) >= params.min_p]
    scores = x[order] + gumbel(first_words(NoiseKey(params.seed, 0, position), VOCAB))[order]
    return int(order[scores.argmax()])


def milliseconds(call, inputs) -> float:
    times = [timed(lambda pair=pair: call(pair[1], pair[0]), time.thread_time)[0] for pair in enumerate(inputs)]
    return round(1e3 * statistics.median(times), 3)


def measure_filters() -> dict:
    found = {}
    for name, fields in WAYS.items():
        params = SamplingParams(seed=1, **fields)
        for kind, spread in SPREADS.items():
            chooser, inputs = Chooser(params, PROMPT, choice=0), rows(spread)
            for n, row in enumerate(inputs):
                if chooser.choose(row, n) != plain_choice(row, params, n):
                    sys.exit(f"{name}, {kind}: row {n} differs from the plain way")
            found[f"{name}, {kind}"] = {
                "ms": milliseconds(chooser.choose, inputs),
                "plain_ms": milliseconds(lambda row, n, params=params: plain_choice(row, params, n), inputs),
            }
    return found


def wide_tokenizer() -> Tokenizer:
    """A byte-level vocabulary of the size that large models have, of random words."""
    draw = random.Random(0)
    vocab = {char: n for n, char in enumerate(sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()))}
    letters = "etaoinshrdlucmfwypvbgkjqxz" * 2 + 'ETAOIN0123456789",:{}[]._-Ġ' * 1
    while len(vocab) < VOCAB - 2:
        word = draw.choice(("", "Ġ")) + "".join(draw.choices(letters, k=draw.randint(2, 8)))
        vocab.setdefault(word, len(vocab))
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    return Tokenizer(backend)


def measure_grammars() -> dict:
    compiler = GrammarCompiler(wide_tokenizer())
    seconds, _ = timed(lambda: compiler.compile(Regex(pattern="x")), time.thread_time)
    found = {"vocabulary, once": {"ms": round(1e3 * seconds, 1)}}
    for name, form in {"JSON schema": JsonSchema(json_schema=SCHEMA), "regex": Regex(pattern="[a-z ]{200,}")}.items():
        seconds, grammar = timed(lambda form=form: compiler.compile(form), time.thread_time)
        compiled_ms = round(1e3 * seconds, 2)
        chooser = Chooser(SamplingParams(seed=1, top_p=0.95, grammar=form), PROMPT, choice=0, grammar=grammar)
        times = []
        for n, row in enumerate(rows(4.0, 60)):
            begin = time.thread_time()
            token = chooser.choose(row, n)
            if token is None:
                sys.exit(f"{name}: {chooser.problem}")
            chooser.advance(token)
            times.append(1e3 * (time.thread_time() - begin))
            if chooser.is_complete:
                break
        found[name] = {
            "compile_ms": compiled_ms,
            "ms": round(statistics.median(times), 3),
            "worst_ms": round(max(times), 3),
            "tokens": len(times),
        }
    return found


def run(options: argparse.Namespace) -> Outcome:
    found = measure_filters() | measure_grammars()
    for name, numbers in found.items():
        print(f"{name:36}", "  ".join(f"{key} {value}" for key, value in numbers.items()))
    slowest = max(numbers["ms"] for name, numbers in found.items() if "plain_ms" in numbers)
    return Outcome({"vocab": VOCAB, "slowest_ms": slowest, "is_met": slowest < TARGET_MS, "rows": found})
