"""The loss curve of bf16 beside that of fp32, over several seeds, on the source of the Python standard library.

A small hybrid (KDA and MLA 2:1, experts) is trained with the same steps in both precisions, a seed after the other:
losses of the training text along the way (means over the last tenth of the steps before each row), and of held-out text
in the end. Target: the mean gap of the held-out losses is smaller than the seeds' own spread.

    python -m bench bf16_curve
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from bench.outcome import Outcome
from hyla.models.initialize import initialize
from hyla.models.trunk import Model
from hyla.ops.host_memory import keep_freed_memory
from hyla.train.config import TrainConfig
from hyla.train.evaluation import nats_per_token
from hyla.train.loop import Trainer
from hyla.train.recipe import HybridRecipe
from hyla.train.run_data import DataSource, RunData, read_data

RECIPE = HybridRecipe(
    pattern="KKM",
    vocab_size=1024,
    hidden_dim=96,
    head_dim=32,
    kv_lora_dim=48,
    dense_dim=256,
    expert_dim=64,
    shared_dim=64,
)
DTYPES = ("fp32", "bf16")
THREADS = 1
ROWS, HELDOUT_TOKENS = 8, 32_768
"""Points of a curve; tokens of its last score."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=96)


def run(options: argparse.Namespace) -> Outcome:
    keep_freed_memory()
    data = read_data(DataSource(), print, trained_from=None, vocab_size=RECIPE.vocab_size, max_len=RECIPE.max_len)
    curves: dict[str, list[list[float]]] = {dtype: [] for dtype in DTYPES}
    heldout: dict[str, list[float]] = {dtype: [] for dtype in DTYPES}
    for seed in range(options.seeds):
        for dtype in DTYPES:
            started = time.perf_counter()
            losses, score = trained(
                data,
                TrainConfig(steps=options.steps, seed=seed, dtype=dtype, batch_tokens=1024, max_document_tokens=256),
            )
            curves[dtype].append(losses)
            heldout[dtype].append(score)
            print(f"seed {seed}, {dtype}: held-out {score:.4f}, {time.perf_counter() - started:.0f} s", flush=True)
    show(curves, options.steps)
    gap = statistics.fmean(b - a for a, b in zip(heldout["fp32"], heldout["bf16"]))
    spread = statistics.stdev(heldout["fp32"]) if options.seeds > 1 else float("inf")
    print(f"held-out, nats a token: {heldout}; bf16 - fp32 {gap:+.4f}, spread of the seeds {spread:.4f}")
    return Outcome({"curves": curves, "heldout": heldout, "gap": gap, "spread": spread}, passed=abs(gap) < spread)


def trained(data: RunData, config: TrainConfig) -> tuple[list[float], float]:
    """(the curve at `ROWS` places, held-out nats a token)."""
    tokenizer = data.tokenizer
    end_id = tokenizer.eos_token_id
    assert end_id is not None
    model = initialize(Model(RECIPE.model_config_of(tokenizer.vocab_size, end_id)), config.seed)
    steps = data.steps(config)
    losses: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(model, steps, config, Path(folder))
        trainer.run(lambda line: losses.append(line.loss))
        window, most = config.max_document_tokens, HELDOUT_TOKENS
        score, _ = nats_per_token(trainer.model, data.heldout, window=window, most_tokens=most)
    tenth = max(1, config.steps // 10)
    return [statistics.fmean(losses[max(0, end - tenth) : end]) for end in places(config.steps)], score


def places(steps: int) -> list[int]:
    return [steps * (number + 1) // ROWS for number in range(ROWS)]


def show(curves: dict[str, list[list[float]]], steps: int) -> None:
    print("| step | fp32: mean (spread) | bf16: mean (spread) | bf16 - fp32, by seed |")
    for place, end in enumerate(places(steps)):
        points = {dtype: [curve[place] for curve in found] for dtype, found in curves.items()}
        cells = [f"{statistics.fmean(own):.4f} ({max(own) - min(own):.4f})" for own in points.values()]
        gaps = ", ".join(f"{b - a:+.4f}" for a, b in zip(points["fp32"], points["bf16"]))
        print(f"| {end} | {cells[0]} | {cells[1]} | {gaps} |")
