"""Decode and prefill of a random Qwen3.5-shaped dense hybrid (0.53 B parameters), beside transformers.

    python -m bench qwen35_shape [--dtypes bfloat16 float32] [--alone] [--context 512] [--steps 32] [--folder FOLDER]
    python -m bench qwen35_shape --base main

The model is that of bench/qwen35_folder.py. Decoded rows are first compared with those of one prefill, bit for bit.
Every part runs in a process of its own, one after the other; with --alone Hyla is measured in this process, without
transformers.

Targets: decode at batch 1 >= 70% of (weight bytes / measured memory bandwidth); prefill of 512 tokens >= 1.5x
transformers; decode at batch 16 >= 3x transformers at batch 16.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import time

from bench.outcome import Outcome
from bench.qwen35_folder import VOCABULARY, model_folder
from bench.timing import Clock, add_clock_option, chosen_clock, timed
from bench.turns import take_turn

PROMPT = 512
FIGURES = ("prefill", "decode_1", "decode_16")
CHECKED, DECODED = 70, 10
"""Tokens of the comparison of decoded rows with a prefill, past the end of a chunk of 64, and how many are decoded."""
WARM_UP = 2
"""First steps that are not counted."""
STEPS_PER_TURN = 3
"""Counted decode steps before the other revision's turn; each turn begins with one that is not counted."""


def prompts(count: int, length: int) -> list[list[int]]:
    return [[(7 * i + 13 * n) % VOCABULARY for i in range(length)] for n in range(count)]


def bandwidth() -> float:
    """Bytes per second of reading 1 GiB with all threads: the best of several passes."""
    import torch

    data = torch.ones(1 << 28)
    return max(data.nbytes / timed(data.sum)[0] for _ in range(8))


class Decoder:
    """The model over a cache of its own, called as the engine calls it: a step's tokens in, greedy choices out."""

    def __init__(self, folder: str, dtype: str, context: int, steps: int):
        import torch

        import hyla
        from bench.hyla_names import cache_class, keep_freed_memory

        keep_freed_memory()
        self.torch = torch
        self.model = hyla.load(folder, dtype=getattr(torch, dtype)).eval().pack()
        pages = 17 * (max(context + 2 * steps, PROMPT) // 64 + 2)
        self.cache = cache_class()(self.model.cache_specs(), num_pages=pages, num_slots=18)

    def weight_bytes(self) -> int:
        """What a decoded token reads: all weights, the head in fp32, no embedding."""
        config, named = self.model.config, self.model.named_parameters()
        return config.vocab_size * config.hidden_dim * 4 + sum(
            parameter.numel() * parameter.dtype.itemsize for name, parameter in named if name != "embed.weight"
        )

    def logits(self, sequences: list, rows: list[list[int]], *, every_row: bool = False):
        with self.torch.inference_mode():
            batch = self.cache.batch([(sequence, len(row)) for sequence, row in zip(sequences, rows)])
            hidden = self.model(self.torch.tensor([token for row in rows for token in row]), batch, self.cache.layers)
            found = self.model.head_logits(hidden if every_row else hidden[batch.last_rows_N])
            for sequence, row in zip(sequences, rows):
                self.cache.commit(sequence, len(row))
            return found

    def step(self, sequences: list, rows: list[list[int]]) -> list[list[int]]:
        return [[token] for token in self.logits(sequences, rows).argmax(-1).tolist()]

    def check(self) -> str:
        """Compare decoded rows with a prefill's; the digest of their bits."""
        (prompt,) = prompts(1, CHECKED)
        one, other = self.cache.open(), self.cache.open()
        whole = self.logits([one], [prompt], every_row=True)
        self.logits([other], [prompt[:-DECODED]])
        rows = self.torch.cat([self.logits([other], [[token]]) for token in prompt[-DECODED:]])
        if not self.torch.equal(whole[-DECODED:], rows):
            raise SystemExit("decoded rows differ from those of a prefill: nothing is timed")
        for sequence in (one, other):
            self.cache.close(sequence)
        return hashlib.sha256(whole.float().numpy().tobytes()).hexdigest()[:16]

    def prefill_seconds(self, repeats: int, clock: Clock) -> list[float]:
        found = []
        for _ in range(repeats + 1):
            take_turn()
            sequence = self.cache.open()
            found.append(timed(lambda own=sequence: self.step([own], prompts(1, PROMPT)), clock)[0])
            self.cache.close(sequence)
        return found[1:]

    def decode_seconds(self, count: int, context: int, steps: int, clock: Clock) -> list[float]:
        sequences, found = [self.cache.open() for _ in range(count)], []
        for sequence, prompt in zip(sequences, prompts(count, context)):
            self.step([sequence], [prompt])
        tokens = self.step(sequences, [[1]] * count)
        while len(found) < steps:
            take_turn()
            tokens = self.step(sequences, tokens)
            for _ in range(STEPS_PER_TURN):
                seconds, tokens = timed(lambda rows=tokens: self.step(sequences, rows), clock)
                found.append(seconds)
        for sequence in sequences:
            self.cache.close(sequence)
        return found


def run_hyla(folder: str, dtype: str, options: argparse.Namespace) -> dict:
    """Seconds of prefill, and of a decode step at batch 1 and 16 (model and head, greedy)."""
    clock, context, steps = chosen_clock(options), options.context, options.steps
    decoder = Decoder(folder, dtype, context, steps)
    digest = decoder.check()
    ways = {
        "prefill": lambda: decoder.prefill_seconds(4, clock),
        "decode_1": lambda: decoder.decode_seconds(1, context, steps, clock),
        "decode_16": lambda: decoder.decode_seconds(16, context, steps, clock),
    }
    seconds = {name: way() for name, way in ways.items() if name in options.figures}
    return {"digest": digest, "weight_bytes": decoder.weight_bytes(), "seconds": seconds}


def run_transformers(folder: str, dtype: str, options: argparse.Namespace) -> dict:
    """The same for transformers, eager, on the same folder."""
    import torch
    from transformers import AutoModelForCausalLM

    from bench.hyla_names import keep_freed_memory

    keep_freed_memory()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    clock, seconds = chosen_clock(options), {"prefill": []}
    with torch.inference_mode():
        for _ in range(4):
            rows = torch.tensor(prompts(1, PROMPT))
            seconds["prefill"].append(timed(lambda: model(rows, use_cache=True, logits_to_keep=1), clock)[0])  # noqa: B023
        for count in (1, 16):
            own = seconds[f"decode_{count}"] = []
            rows = torch.tensor(prompts(count, options.context))
            past = model(rows, use_cache=True, logits_to_keep=1).past_key_values
            tokens = torch.ones(count, 1, dtype=torch.int64)
            for _ in range(WARM_UP + options.steps // 2):
                start = clock()
                tokens = model(tokens, past_key_values=past, use_cache=True).logits[:, -1:].argmax(-1)
                own.append(clock() - start)
    return {"seconds": {name: values[1 if name == "prefill" else WARM_UP :] for name, values in seconds.items()}}


def part(name: str, folder: str, dtype: str, options: argparse.Namespace) -> dict:
    """One measurement in a process of its own."""
    own = ["--part", name, "--folder", folder, "--dtypes", dtype]
    own += ["--context", str(options.context), "--steps", str(options.steps)]
    own += ["--threads", str(options.threads)] if options.threads else []
    own += ["--cpu-time"] if options.cpu_time else []
    done = subprocess.run([sys.executable, "-m", "bench", "qwen35_shape", *own], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])["results"]


def middle(measured: dict) -> dict[str, float]:
    return {name: statistics.median(times) for name, times in measured["seconds"].items()}


def rates(found: dict, context: int) -> dict:
    """Tokens per second, of what was measured."""
    tokens = {"decode_1": 1, "decode_16": 16, "prefill": PROMPT}
    own = {f"{name}_tokens_s": round(tokens[name] / seconds, 1) for name, seconds in middle(found).items()}
    return {**own, "context": context}


def compare(folder: str, dtype: str, options: argparse.Namespace) -> tuple[dict, dict]:
    """The row of a dtype beside transformers, and Hyla's own measurement."""
    rate = part("bandwidth", folder, dtype, options)["bytes_s"]
    ours, theirs = (part(name, folder, dtype, options) for name in ("hyla", "transformers"))
    times = {name: other / middle(ours)[name] for name, other in middle(theirs).items()}
    row = {
        "bandwidth_gb_s": round(rate / 1e9, 1),
        "weight_gb": round(ours["weight_bytes"] / 1e9, 3),
        "decode_1_share_of_bandwidth": round(ours["weight_bytes"] / rate / middle(ours)["decode_1"], 2),
        "decode_1_vs_transformers": round(times["decode_1"], 2),
        "prefill_512_vs_transformers": round(times["prefill"], 2),
        "decode_16_vs_transformers": round(times["decode_16"], 2),
    }
    return row, ours


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--folder", help="where the model is, or is written; default: a temporary folder")
    parser.add_argument("--alone", action="store_true", help="Hyla only, in this process")
    parser.add_argument("--figures", nargs="+", default=FIGURES, choices=FIGURES, help="which to take, with --alone")
    parser.add_argument("--context", type=int, default=PROMPT, help="tokens before the decoded ones")
    parser.add_argument("--steps", type=int, default=30, help="decoded tokens that count")
    parser.add_argument("--part", choices=["bandwidth", "hyla", "transformers"], help=argparse.SUPPRESS)
    add_clock_option(parser)


def run(options: argparse.Namespace) -> Outcome:
    if options.part == "bandwidth":
        return Outcome({"bytes_s": bandwidth()})
    rows, seconds, digests = [], {}, []
    with model_folder(options.folder) as folder:
        if options.part:
            measure = run_hyla if options.part == "hyla" else run_transformers
            return Outcome(measure(folder, options.dtypes[0], options))
        for dtype in options.dtypes:
            started = time.perf_counter()
            row, found = {}, None
            if options.alone:
                found = run_hyla(folder, dtype, options)
            else:
                row, found = compare(folder, dtype, options)
            row = {"dtype": dtype, **rates(found, options.context), **row}
            rows.append(row)
            seconds |= {f"{name}_{dtype}": times for name, times in found["seconds"].items()}
            digests.append(found["digest"])
            for name, value in row.items():
                print(f"{name:32} {value}")
            print(f"({time.perf_counter() - started:.0f} s)", flush=True)
    return Outcome(rows, seconds=seconds, digest="-".join(digests))
