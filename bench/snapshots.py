"""What snapshots in bf16 and int8 change after a prefix hit, on a trained model.

    python -m bench snapshots FOLDER [--prompts 12] [--length 400] [--answer 48]

FOLDER: a model with a tokenizer, for example the quickstart's. Prompts are stretches of the standard library's source;
each is computed once, so that its state is kept, and asked again with more text. Compared with fp32 snapshots, which
change nothing: the log-probabilities of the text that follows (prompt log-probabilities are not used: they skip the
cache), and the greedy answer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sysconfig
from pathlib import Path

import hyla
from bench.outcome import Outcome
from hyla.checkpoints import load_tokenizer
from hyla.engine import Engine, SamplingParams

DTYPES = ("float32", "bfloat16", "int8")


def texts(count: int) -> list[str]:
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    long = [text for text in (path.read_text(errors="ignore") for path in files) if len(text) > 8000]
    return [text[2000:8000] for text in long[:: max(len(long) // count, 1)][:count]]


def answers(engine: Engine, prompts: list[list[int]], length: int, answer: int) -> list:
    greedy = SamplingParams(max_tokens=answer, temperature=0, logprobs=0, ignore_eos=True)
    found = []
    for prompt in prompts:
        engine.generate(prompt[:length], SamplingParams(max_tokens=1, temperature=0))
        (done,) = engine.generate(prompt[: length + 20], greedy)
        assert done.usage.cached_tokens == length // 64 * 64
        found.append(done)
    return found


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder")
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--length", type=int, default=400)
    parser.add_argument("--answer", type=int, default=48)


def run(options: argparse.Namespace) -> Outcome:
    model, tokenizer = hyla.load(options.folder), load_tokenizer(options.folder)
    prompts = [tokenizer.encode(text)[: options.length + 20] for text in texts(options.prompts)]
    results, exact = {}, None
    for dtype in DTYPES:
        engine = Engine(model, memory=1 << 30, snapshot_dtype=dtype)
        found = answers(engine, prompts, options.length, options.answer)
        exact = exact or found
        pairs = list(zip(found, exact))
        first = [abs(a.logprobs[0].logprob - b.logprobs[0].logprob) for a, b in pairs]
        same = [sum(x == y for x, y in zip(a.token_ids, b.token_ids)) / options.answer for a, b in pairs]
        results[dtype] = {
            "snapshot_bytes": engine.cache.snapshots.nbytes // (engine.memory.num_snapshots + 1),
            "first_logprob_difference_max": max(first),
            "first_logprob_difference_mean": statistics.fmean(first),
            "same_greedy_tokens": statistics.fmean(same),
        }
        print(dtype, json.dumps(results[dtype]))
    return Outcome(results)
