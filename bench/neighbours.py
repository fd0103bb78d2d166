"""One stream alone, beside a busy process, and two engines side by side.

    python -m bench neighbours [--engines hyla transformers] [--folder FOLDER] [--rounds 5] [--seconds 4]

The model is that of bench/qwen35_folder.py, in bfloat16. Each engine is a process of its own (bench/decode_worker.py)
that decodes one stream; whoever does not take part is stopped by SIGSTOP, since threads that wait may spin. A round is
the three cases, one after the other; what counts is the median over rounds of the ratio to the same round's stream
alone. Of two engines, the slower one's.

Targets, for Hyla: side by side 0.4 at least; beside a busy process 0.5 at least.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import subprocess
import sys
import threading
import time

from bench.beside_llama import Worker
from bench.machine import usable_cores
from bench.outcome import Outcome
from bench.qwen35_folder import VOCABULARY, model_folder

TARGETS = {"busy": 0.5, "two": 0.4}
STEPS = 4
"""Tokens of one request to a worker."""
WARM_UP = 8
BUSY = "while True: pass"


class Stream:
    """An engine that decodes while it is asked to, and stands still otherwise."""

    def __init__(self, engine: str, folder: str, options: argparse.Namespace):
        arguments = [engine, folder, "--length", str(options.length), "--threads", str(options.threads)]
        self.worker = Worker(sys.executable, *arguments)
        self._left = options.length
        self._decode(WARM_UP)
        self.stop()

    def stop(self) -> None:
        self.worker.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.worker.process.send_signal(signal.SIGCONT)

    def _decode(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise SystemExit("the context is full: give --length more, or fewer --rounds or --seconds")
        self.worker.feed([[(7 * self._left + i) % VOCABULARY] for i in range(count)])

    def rate(self, seconds: float) -> float:
        """Tokens a second, for so long."""
        start, done = time.perf_counter(), 0
        while time.perf_counter() < start + seconds:
            self._decode(STEPS)
            done += STEPS
        return done / (time.perf_counter() - start)


def together(streams: list[Stream], seconds: float) -> list[float]:
    """The rates of streams that decode at the same time."""
    found = [0.0] * len(streams)

    def measure(place: int) -> None:
        found[place] = streams[place].rate(seconds)

    for stream in streams:
        stream.go_on()
    threads = [threading.Thread(target=measure, args=(place,)) for place in range(len(streams))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for stream in streams:
        stream.stop()
    return found


def one_round(streams: list[Stream], seconds: float) -> dict[str, float]:
    (alone,) = together(streams[:1], seconds)
    busy = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        (beside,) = together(streams[:1], seconds)
    finally:
        busy.kill()
        busy.wait()
    return {"alone": alone, "busy": beside, "two": min(together(streams, seconds))}


def measure(engine: str, folder: str, options: argparse.Namespace) -> dict[str, float]:
    streams = []
    try:
        streams += [Stream(engine, folder, options)]
        streams += [Stream(engine, folder, options)]
        rounds = [one_round(streams, options.seconds) for _ in range(options.rounds)]
    finally:
        for stream in streams:  # one that is stopped would stay for ever
            stream.go_on()
            stream.worker.close()
    row = {"alone_tokens_s": round(statistics.median(found["alone"] for found in rounds), 1)}
    for case in TARGETS:
        ratios = [found[case] / found["alone"] for found in rounds]
        row[f"{case}_ratio"] = round(statistics.median(ratios), 2)
        row[f"{case}_least"] = round(min(ratios), 2)
    print(f"{engine:14}", *(f"{name} {value}" for name, value in row.items()), flush=True)
    return row


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engines", nargs="+", default=["hyla", "transformers"], choices=["hyla", "transformers"])
    parser.add_argument("--folder", help="where the model is, or is written; default: a temporary folder")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each case")
    parser.add_argument("--length", type=int, default=8192, help="room of each stream, in tokens")


def run(options: argparse.Namespace) -> Outcome:
    options.threads = options.threads or usable_cores()
    with model_folder(options.folder) as folder:
        found = {engine: measure(engine, folder, options) for engine in options.engines}
    ours = found.get("hyla")
    passed = all(ours[f"{case}_ratio"] >= target for case, target in TARGETS.items()) if ours else None
    return Outcome(found, passed=passed)
