"""Decoding beside llama.cpp: the random Qwen3.5-shaped model of bench/qwen35_folder.py, the same weights in both.

    python -m bench beside_llama --llama-python PYTHON [--depths 16 4096 32768] [--kv f16] [--folder FOLDER]

PYTHON is the one of an environment with llama-cpp-python and gguf (docs/benchmarks.md says how to make it). First the
logits of both are compared: both in fp32, where only the order of sums differs (LIMIT), then as they are timed. Then
one sequence of random tokens is fed to both, by real prefill, and at every depth both decode the same tokens in turn,
round after round, each in a process of its own that sleeps while the other works. Medians of single tokens; the first
tokens of a round are not counted. Target: a token at 32,768 in at most half of llama.cpp's time.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.decode_worker import PREFILL_PIECE
from bench.machine import ROOT
from bench.outcome import Outcome
from bench.qwen35_folder import VOCABULARY, model_folder

THREADS = 2
LIMIT = 2e-4
"""Largest difference of fp32 logits over the largest logit: measured 2e-5 (7e-4 with llama.cpp's flash attention, which
rounds inside; so without it). A wrong tensor or formula gives about 1."""
PROMPT, ANSWER = 150, 30
"""Tokens of the comparison of logits: fed in one piece, and one by one."""
WARM_UP = 2
"""First tokens of a round that are not counted: the other engine's work left the caches and the clock to it."""


def tokens(count: int, seed: int) -> list[int]:
    return random.Random(seed).choices(range(VOCABULARY), k=count)


class Worker:
    """bench/decode_worker.py, running."""

    def __init__(self, python: str, *arguments: str):
        command = [python, "-m", "bench.decode_worker", *arguments]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, cwd=ROOT, **pipes)

    def feed(self, pieces: list[list[int]], logits: Path | None = None) -> dict:
        self.process.stdin.write(json.dumps({"pieces": pieces, "logits": logits and str(logits)}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args} ended with {self.process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def pair(args: argparse.Namespace, file: Path, dtype: str, kv: str, flash: str, length: int) -> dict[str, Worker]:
    common = ["--length", str(length), "--threads", str(args.threads)]
    llama = ["llama", str(file), "--kv", kv, "--flash", flash]
    return {
        "hyla": Worker(sys.executable, "hyla", args.folder, "--dtype", dtype, *common),
        "llama": Worker(args.llama_python, *llama, *common),
    }


def differences(ours: np.ndarray, theirs: np.ndarray) -> dict:
    """Of logits [rows, vocabulary]: largest difference over largest logit, the same of root mean squares, choices."""
    return {
        "largest": float(np.abs(ours - theirs).max() / np.abs(theirs).max()),
        "rms": float(np.sqrt(((ours - theirs) ** 2).mean() / (theirs**2).mean())),
        "same_choice": float((ours.argmax(1) == theirs.argmax(1)).mean()),
    }


def check(args: argparse.Namespace, scratch: Path) -> dict:
    """Agreement of logits after a prompt and after each of the tokens that follow it; SystemExit without it in fp32."""
    prompt = tokens(PROMPT + ANSWER, 1)
    pieces = [prompt[:PROMPT], *([token] for token in prompt[PROMPT:])]
    found = {}
    for dtype, kv, flash in (("float32", "f32", "off"), ("bfloat16", args.kv, args.flash)):
        workers = pair(args, scratch / f"{dtype}.gguf", dtype, kv, flash, 64 * 8)
        for name, worker in workers.items():
            worker.feed(pieces, scratch / "logits.npy")
            found[name, dtype] = np.load(scratch / "logits.npy")
            worker.close()
    exact = found["hyla", "float32"]
    result = {
        "float32": differences(exact, found["llama", "float32"]),
        "bfloat16": differences(found["hyla", "bfloat16"], found["llama", "bfloat16"]),
        "hyla_bfloat16_from_float32": differences(found["hyla", "bfloat16"], exact),
        "llama_bfloat16_from_float32": differences(found["llama", "bfloat16"], exact),
    }
    for name, row in result.items():
        print(name, *(f"{key} {value:.3g}" for key, value in row.items()), flush=True)
    if result["float32"]["largest"] > LIMIT:
        raise SystemExit("the two compute different models: nothing is timed")
    return result


def fill(workers: dict[str, Worker], text: list[int]) -> dict[str, float]:
    """Prefill in pieces; tokens per second of each."""
    pieces = [text[start : start + PREFILL_PIECE] for start in range(0, len(text), PREFILL_PIECE)]
    rates = {}
    for name, worker in workers.items():
        rates[name] = len(text) / sum(worker.feed(pieces)["seconds"])
        print(f"{name} read {len(text):,} tokens at {rates[name]:.0f} tokens/s", flush=True)
    return rates


def alternate(workers: dict[str, Worker], rounds: int, steps: int, seed: int) -> dict:
    """A decoded token of both, taken in turn: median and least seconds, median processor time of all threads; the
    median over rounds of the ratio of their medians."""
    found = {name: {"seconds": [], "processor_seconds": []} for name in workers}
    ratios, same = [], []
    for number in range(rounds):
        text = [[token] for token in tokens(steps + WARM_UP, seed + number)]
        answers = {}
        for name in list(workers)[:: 1 if number % 2 else -1]:
            time.sleep(0.2)  # the other's threads stop spinning
            answers[name] = workers[name].feed(text)
            for kind, values in found[name].items():
                values += answers[name][kind][WARM_UP:]
        ours, theirs = answers["hyla"], answers["llama"]
        ratios.append(statistics.median(theirs["seconds"][WARM_UP:]) / statistics.median(ours["seconds"][WARM_UP:]))
        same += [one == other for one, other in zip(ours["tokens"], theirs["tokens"])]
    row = {"ratio": statistics.median(ratios), "ratio_low": min(ratios), "ratio_high": max(ratios)}
    for name, kinds in found.items():
        row |= {f"{name}_{kind}": statistics.median(values) for kind, values in kinds.items()}
        row[f"{name}_least_seconds"] = min(kinds["seconds"])
    return {**row, "same_choice": statistics.fmean(same)}


def measure(args: argparse.Namespace, scratch: Path) -> dict:
    """By depth: decode of both, and the prefill that led there from the depth before."""
    spent = args.rounds * (args.steps + WARM_UP)
    length = -(-(args.depths[-1] + spent) // 256) * 256
    workers = pair(args, scratch / "bfloat16.gguf", "bfloat16", args.kv, args.flash, length)
    result, reached = {}, 0
    for depth in args.depths:
        rates = fill(workers, tokens(depth - reached, depth))
        row = alternate(workers, args.rounds, args.steps, 1000 * depth)
        row |= {f"{name}_prefill_tokens_s": rate for name, rate in rates.items()}
        reached = depth + spent
        result[depth] = row
        print(depth, json.dumps(row), flush=True)
    for worker in workers.values():
        worker.close()
    return result


def table(rows: dict[int, dict]) -> str:
    """Markdown; milliseconds of a token as median (least; processor time), and what both read a second before it."""
    lines = [
        "| depth | Hyla, ms | llama.cpp, ms | ratio (lowest, highest) | prefill, tokens/s |",
        "|---|---|---|---|---|",
    ]
    for depth, row in rows.items():
        cells = [f"{depth:,}"]
        for name in ("hyla", "llama"):
            kinds = [1000 * row[f"{name}_{kind}"] for kind in ("seconds", "least_seconds", "processor_seconds")]
            cells.append("{:.1f} ({:.1f}; {:.1f})".format(*kinds))
        cells.append(f"{row['ratio']:.2f} ({row['ratio_low']:.2f}, {row['ratio_high']:.2f})")
        cells.append(f"{row['hyla_prefill_tokens_s']:.0f}, {row['llama_prefill_tokens_s']:.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--llama-python", required=True, help="the interpreter that has llama_cpp and gguf")
    parser.add_argument("--folder", help="where the model is, or is written; default: a temporary folder")
    parser.add_argument("--depths", type=int, nargs="+", default=[16, 4096, 32768])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=12, help="counted tokens of a round")
    parser.add_argument("--kv", default="f16", choices=["f16", "bf16"], help="llama.cpp's; Hyla's are bf16")
    parser.add_argument("--flash", default="auto", choices=["auto", "off", "on"], help="llama.cpp's flash attention")


def run(options: argparse.Namespace) -> Outcome:
    spent = options.rounds * (options.steps + WARM_UP)
    if any(after < before + spent for before, after in zip(options.depths, options.depths[1:])):
        raise SystemExit(f"--depths {options.depths}: each measurement decodes {spent} tokens, so they are too near")
    options.llama_python = str(Path(options.llama_python).absolute())
    with tempfile.TemporaryDirectory() as temporary, model_folder(options.folder) as folder:
        scratch, options.folder = Path(temporary), str(Path(folder).absolute())
        for dtype, flags in (("float32", ["--float32"]), ("bfloat16", [])):
            file = str(scratch / f"{dtype}.gguf")
            command = [options.llama_python, "-m", "bench.gguf_folder", options.folder, file, *flags]
            subprocess.run(command, cwd=ROOT, check=True)
        agreement = check(options, scratch)
        rows = measure(options, scratch)
    print(table(rows))
    return Outcome({"agreement": agreement, "depths": rows})
