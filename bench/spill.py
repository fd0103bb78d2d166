"""A long prefix spilled to disk and taken up by a restarted engine, beside computing it again.

On the model of bench/qwen35_folder.py (18 gated delta layers with 19 MB of states, 6 attention layers with 12 KB per
token). The answers are compared bit for bit before anything is reported. The file is read cold (its pages are dropped
from the system's cache first, as far as the system agrees) and warm.

    python -m bench spill [--dtype bfloat16] [--lengths 1024 4096 8192] [--folder MODEL] [--spill-folder FOLDER]

Target: a load takes at most a tenth of computing the same prefix; spilling holds the engine up for less than a step.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from functools import partial
from pathlib import Path

import torch

import hyla
from bench.hyla_names import keep_freed_memory
from bench.outcome import Outcome
from bench.qwen35_folder import VOCABULARY, model_folder
from bench.timing import timed


def drop_from_memory(folder: Path) -> None:
    """Ask the system to forget the files' contents."""
    for file in folder.iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def measure(model, folder: Path, length: int) -> dict:
    prompt = [(7 * i * i + 13 * length) % VOCABULARY for i in range(length + 30)]
    params = hyla.SamplingParams(max_tokens=1, temperature=0, logprobs=3)
    options = {"max_num_sequences": 2, "memory": 512 << 20, "spill_folder": folder, "snapshot_every": 1 << 20}

    def first_token(engine):
        seconds, (done,) = timed(lambda: engine.generate(prompt, params))
        return seconds, done

    hyla.Engine(model, memory=1 << 28, max_num_sequences=1).generate([1] * 200, params)  # what is made once is made now
    engine = hyla.Engine(model, **options)
    computed, expected = first_token(engine)
    out, _ = timed(lambda: engine.prefix.make_room(engine.cache.ledger.pages.total))
    written, _ = timed(engine.spill.store.flush)
    status = engine.status()["spill"]
    assert status["spilled"] >= 1, status
    row = {
        "tokens": length,
        "file_mb": round(status["spilled_bytes"] / 1e6, 1),
        "compute_seconds": round(computed, 3),
        "evict_and_copy_seconds": round(out, 3),
        "write_in_background_seconds": round(written, 3),
    }
    for name in ("cold", "warm"):
        if name == "cold":
            drop_from_memory(folder)
        start, restarted = timed(lambda: hyla.Engine(model, **options))
        load, hit = timed(partial(restarted.prefix.lookup, prompt))
        seconds, done = first_token(restarted)
        assert hit.length == done.usage.cached_tokens == length, (hit.length, done.usage)
        assert (done.token_ids, done.logprobs) == (expected.token_ids, expected.logprobs)
        row |= {f"load_{name}_seconds": round(load, 3), f"first_token_{name}_seconds": round(load + seconds, 3)}
    row["start_with_fingerprint_seconds"] = round(start, 3)
    row["compute_over_first_token"] = round(computed / row["first_token_cold_seconds"], 1)
    return row


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--lengths", nargs="+", type=int, default=[1024, 4096, 8192])
    parser.add_argument("--folder", help="where the model is, or is written; default: a temporary folder")
    parser.add_argument("--spill-folder", help="on the disk to measure; default: a temporary folder")


def run(options: argparse.Namespace) -> Outcome:
    keep_freed_memory()
    rows = []
    with tempfile.TemporaryDirectory() as temporary, model_folder(options.folder) as folder:
        model = hyla.load(folder, dtype=getattr(torch, options.dtype)).eval().pack()
        for length in options.lengths:
            place = Path(options.spill_folder or temporary) / f"spill-{length}"
            row = measure(model, place, length)
            shutil.rmtree(place)
            rows.append(row)
            print(" ".join(f"{name}={value}" for name, value in row.items()), flush=True)
    return Outcome(rows)
