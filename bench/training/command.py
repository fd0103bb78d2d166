"""The command: models, rounds in turn, a table."""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.machine import ROOT, usable_cores
from bench.outcome import Outcome
from bench.training.models import MIXERS, SIZES, VOCABULARY, write_model

FASTER, SMALLER, LONGER = 4.0, 0.6, 1.15
"""Targets: tokens/s beside transformers, peak memory beside it, time per token at four times the length."""
SAME_LOSS = {"fp32": 2e-3, "bf16": 3e-2}
"""Largest difference of the first steps' losses, in nats: they train the same model on the same documents."""
WARM_UP = 2


class Worker:
    """bench/training/worker.py, running; stopped while others work."""

    def __init__(self, engine: str, folder: Path, dtype: str, length: int, options: argparse.Namespace):
        sequences = options.tokens // length
        command = [sys.executable, "-m", "bench.training.worker", engine, str(folder), "--dtype", dtype]
        command += ["--length", str(length), "--sequences", str(sequences), "--threads", str(options.threads)]
        command += ["--vocabulary", str(VOCABULARY)]
        log = subprocess.DEVNULL if not options.loud else None
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
        self.first = self.steps(WARM_UP)
        self.rest()

    def steps(self, count: int) -> dict:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps({"steps": count}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self.process.args[2:5])} ended with {self.process.wait()}; --loud says why")  # type: ignore[index]
        return json.loads(line)

    def rest(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.wake()
        self.process.kill()
        self.process.wait()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--mixers", nargs="+", default=list(MIXERS), choices=list(MIXERS))
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=SIZES)
    parser.add_argument("--dtypes", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--engines", nargs="+", default=["hyla", "transformers"], choices=["hyla", "transformers"])
    parser.add_argument("--tokens", type=int, default=2048, help="of one step")
    parser.add_argument("--length", type=int, default=512, help="of one document")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the models are kept; default: a temporary folder")
    parser.add_argument("--longer", action="store_true", help="Hyla at four times the length, too")
    parser.add_argument("--loud", action="store_true", help="show what the engines print")


def run(options: argparse.Namespace) -> Outcome:
    options.threads = options.threads or usable_cores()
    rows = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        for size in options.sizes:
            for mixer in options.mixers:
                for dtype in options.dtypes:
                    place = write_model(mixer, size, folder)
                    row = measured(place, dtype, options)
                    rows[f"{mixer} {size} {dtype}"] = row
                    print(f"{mixer:12} {size:4} {dtype}  {shown(row)}", flush=True)
    passed = all(row.get("ratio", FASTER) >= FASTER and row.get("memory_ratio", 0) <= SMALLER for row in rows.values())
    return Outcome(rows, passed and all(row["same_loss"] for row in rows.values()))


def measured(folder: Path, dtype: str, options: argparse.Namespace) -> dict:
    """Rates of every engine, in turn, and Hyla's at four times the length."""
    lengths = {name: options.length for name in options.engines}
    if options.longer:
        lengths["longer"] = 4 * options.length
    workers: dict[str, Worker] = {}
    rates: dict[str, list[float]] = {name: [] for name in lengths}
    peaks, reasons = {}, {}
    try:
        for name, length in lengths.items():
            try:
                workers[name] = Worker("hyla" if name == "longer" else name, folder, dtype, length, options)
            except RuntimeError as error:
                reasons[name] = str(error)
        for _ in range(options.rounds):
            for name, worker in workers.items():
                worker.wake()
                found = worker.steps(1)
                worker.rest()
                rates[name].append(options.tokens / found["seconds"][0])
                peaks[name] = found["peak_bytes"]
    finally:
        for worker in workers.values():
            worker.close()
    row: dict = {"tokens_s": {name: statistics.median(found) for name, found in rates.items() if found}}
    row |= {"peak_bytes": peaks, "reasons": reasons, "same_loss": True}
    if {"hyla", "transformers"} <= workers.keys():
        row["ratio"] = statistics.median(a / b for a, b in zip(rates["hyla"], rates["transformers"]))
        row["memory_ratio"] = peaks["hyla"] / peaks["transformers"]
        losses = [workers[name].first["losses"] for name in ("hyla", "transformers")]
        row["loss_difference"] = max(abs(a - b) for a, b in zip(*losses))
        row["same_loss"] = row["loss_difference"] <= SAME_LOSS[dtype]
    if rates.get("longer"):
        row["longer_ratio"] = statistics.median(a / b for a, b in zip(rates["hyla"], rates["longer"]))
    return row


def shown(row: dict) -> str:
    parts = [f"{name} {rate:,.0f} tokens/s" for name, rate in row["tokens_s"].items()]
    parts += [f"{name} {peak / 1e9:.2f} GB" for name, peak in row["peak_bytes"].items()]
    if "ratio" in row:
        parts.append(f"{row['ratio']:.2f}x, memory {row['memory_ratio']:.2f}x")
        parts.append(f"losses differ by {row['loss_difference']:.1e}" + ("" if row["same_loss"] else ": NOT THE SAME"))
    if "longer_ratio" in row:
        parts.append(f"four times the length: {row['longer_ratio']:.2f}x the time of a token")
    return ", ".join([*parts, *row["reasons"].values()])
