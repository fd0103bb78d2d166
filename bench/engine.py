"""The engine on the random Qwen3.5-shaped model of bench/qwen35_folder.py: batching, prefix cache, drafts, overhead.

    python -m bench engine [--parts throughput prefix chat lookup overhead deep] [--folder FOLDER] [--dtype bfloat16]

Every comparison checks first that both ways answer the same, then alternates them. Intervals are 95% of the ratio of
paired runs (t distribution of its logarithm).

Targets: 32 requests >= 8x the tokens/s of one; prefix cache on without shared prefixes: the interval of its speed
against off reaches 0.98; the last of 8 chat turns of 1k tokens: first token >= 5x sooner; copying with prompt lookup
>= 2x, random text: the interval reaches 0.97; scheduler < 5% of a step at batch 32; a token at 32k context.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time

import torch

import hyla
from bench.outcome import Outcome
from bench.qwen35_folder import VOCABULARY, model_folder
from bench.timing import interval, timed
from hyla.engine import Engine, Request, SamplingParams
from hyla.ops.host_memory import keep_freed_memory

MEMORY = 6 << 30


def tokens(length: int, seed: int) -> list[int]:
    draw = random.Random(seed)
    return [draw.randrange(VOCABULARY) for _ in range(length)]


def params(max_tokens: int, **fields) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, temperature=0, ignore_eos=True, seed=1, **fields)


def answered(engine: Engine, prompts, wanted: SamplingParams) -> tuple[float, list]:
    """Seconds, and the ids of every answer."""
    seconds, done = timed(lambda: engine.generate(prompts, wanted))
    return seconds, [one.token_ids for one in done]


def alternate(ways: dict[str, Engine], prompts_of, wanted: SamplingParams, repeats: int) -> dict:
    """Speed of the second way relative to the first over fresh prompts; answers must be equal."""
    (first, one), (second, other) = ways.items()
    ratios = []
    for repeat in range(repeats + 1):
        order = [(first, one), (second, other)]
        seconds, answers = {}, {}
        for name, engine in order if repeat % 2 else order[::-1]:
            seconds[name], answers[name] = answered(engine, prompts_of(repeat), wanted)
        assert answers[first] == answers[second], "the ways answer differently"
        if repeat:  # the first round warms up
            ratios.append(seconds[first] / seconds[second])
    return interval(ratios)


def throughput(model) -> dict:
    """Aggregate tokens/s of 1 and of 32 requests with prompts of 64 tokens, by length of the answer."""
    engine, results = Engine(model, memory=MEMORY, max_num_sequences=32), {}
    for answer in (64, 192):
        rates = {}
        for count in (1, 32):
            runs = []
            for repeat in range(3):
                prompts = [[repeat, *tokens(63, 100 + n)] for n in range(count)]
                seconds, _ = answered(engine, prompts, params(answer))
                runs.append(count * answer / seconds)
            rates[count] = statistics.median(runs)
        results[f"answers_of_{answer}"] = {"1": rates[1], "32": rates[32], "ratio": rates[32] / rates[1]}
    return results


def prefix(model) -> dict:
    ways = {"off": Engine(model, memory=MEMORY, prefix_cache=False), "on": Engine(model, memory=MEMORY)}
    found = alternate(ways, lambda r: [tokens(300 + 37 * n, 1000 * r + n) for n in range(4)], params(24), 12)
    assert ways["on"].prefix.counts["hit_tokens"] == 0
    return found


def first_token_seconds(engine: Engine, prompt: list[int], answer: int) -> tuple[float, list[int]]:
    start, first, ids = time.perf_counter(), None, []
    for event in engine.stream(prompt, params(answer)):
        first = first or (time.perf_counter() - start if event.token_ids else None)
        ids += event.token_ids
    return first, ids


def chat(model) -> dict:
    on, off = Engine(model, memory=MEMORY), Engine(model, memory=MEMORY, prefix_cache=False)
    prompt = []
    for turn in range(8):
        prompt = [*prompt, *tokens(1000, 7 + turn)]
        seconds_on, ids = first_token_seconds(on, prompt, 24)
        last, prompt = prompt, [*prompt, *ids]
    seconds_off, expected = first_token_seconds(off, last, 24)
    assert ids == expected
    return {"off_seconds": seconds_off, "on_seconds": seconds_on, "ratio": seconds_off / seconds_on}


def make_copying(model) -> None:
    """Every sublayer's output is zero, and the head is the embedding shifted by one id: token t is followed by t + 1.
    All the work is done, and the text is one that a lookup can foresee."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith((".o.weight", ".down.weight")):
                parameter.zero_()
        model.head.weight = torch.nn.Parameter(model.embed.weight.roll(1, 0).clone())


def lookup(folder: str, dtype) -> dict:
    model = hyla.load(folder, dtype=dtype).eval()
    options = {"memory": 2 << 30, "max_num_sequences": 2, "prefix_cache": False}

    def ways(own) -> dict[str, Engine]:
        return {"off": Engine(own, **options), "lookup": Engine(own, speculation="lookup", **options)}

    random_text = alternate(ways(model), lambda r: [tokens(200, 31 * r)], params(64), 12)
    copying = hyla.load(folder, dtype=dtype).eval()
    copying.config = copying.config.model_copy(update={"tie_embeddings": False})
    make_copying(copying)
    text = list(range(1000, 1300))
    found = ways(copying)
    copied = alternate(found, lambda r: [[*text, r, *text[:20]]], params(128), 10)
    spent = found["lookup"].speculation.lengths
    return {"copying": copied, "accepted": spent.num_accepted / max(spent.num_drafted, 1), "random": random_text}


def overhead(model) -> dict:
    """What a step at batch 32 costs beside the model's and the head's calls."""
    engine = Engine(model, memory=MEMORY, max_num_sequences=32)
    inside = [0.0]

    def watched(function):
        def call(*args, **kwargs):
            start = time.perf_counter()
            result = function(*args, **kwargs)
            inside[0] += time.perf_counter() - start
            return result

        return call

    model.hidden, model.head_logits = watched(model.hidden), watched(model.head_logits)
    for n in range(32):
        engine.add(Request(f"r{n}", tuple(tokens(64, n)), params(80)))
    shares, steps = [], []
    while engine.has_work:
        inside[0], start = 0.0, time.perf_counter()
        events = engine.step()
        seconds = time.perf_counter() - start
        if len(events) == 32:
            shares.append(1 - inside[0] / seconds)
            steps.append(seconds)
    del model.hidden, model.head_logits
    return {"step_seconds": statistics.median(steps), "overhead_share": statistics.median(shares)}


def deep(model) -> dict:
    """A decoded token at 32k context: the caches hold random keys, values and states."""
    from hyla.caches import Cache

    length = 32704
    cache = Cache(model.cache_specs(), num_pages=length // 64 + 3, num_slots=1)
    sequence = cache.open()
    for layer in cache.layers:
        for tensor in layer.values():
            tensor.normal_()
    cache.reserve([(sequence, length)])
    sequence.length = sequence.written = length
    found = []
    with torch.inference_mode():
        for _ in range(12):
            start = time.perf_counter()
            batch = cache.batch([(sequence, 1)])
            hidden = model(torch.tensor([5]), batch, cache.layers)
            model.head_logits(hidden).argmax(-1).tolist()
            cache.commit(sequence, 1)
            found.append(time.perf_counter() - start)
    return {"token_seconds": statistics.median(found[2:]), "tokens_s": 1 / statistics.median(found[2:])}


PARTS = {"throughput": throughput, "prefix": prefix, "chat": chat, "overhead": overhead, "deep": deep}


def add_options(parser: argparse.ArgumentParser) -> None:
    parts = ["throughput", "prefix", "chat", "lookup", "overhead", "deep"]
    parser.add_argument("--parts", nargs="+", default=parts, choices=parts)
    parser.add_argument("--folder", help="where the model is, or is written; default: a temporary folder")
    parser.add_argument("--dtype", default="bfloat16")


def run(options: argparse.Namespace) -> Outcome:
    keep_freed_memory()
    results = {}
    with model_folder(options.folder) as folder:
        dtype = getattr(torch, options.dtype)
        model = hyla.load(folder, dtype=dtype).eval().pack()
        for name in options.parts:
            results[name] = lookup(folder, dtype) if name == "lookup" else PARTS[name](model)
            print(name, json.dumps(results[name]), flush=True)
    return Outcome(results)
