"""The command: shapes, the check, rounds in turn, a table."""

from __future__ import annotations

import argparse
import math
import random
import statistics
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.outcome import Outcome
from bench.timing import add_clock_option, alternated, chosen_clock, interval
from bench.training.models import MIXERS, SIZES, write_model

THREADS = 1
FASTER = 5.0
"""Target: tokens/s beside transformers."""
SAME_MODEL = {"fp32": 5e-2, "bf16": 0.5}
"""Largest difference of a token's log-probability, in nats, where another model is off by one and more. Measured in
fp32: 1e-6 (KDA) to 1.2e-2 (`minimax`); in bf16 the two round in other places."""
TEMPERATURE = 1.0


@dataclass(frozen=True)
class Shape:
    """A round's work. prompt: its shortest and longest tokens."""

    model: str
    tasks: int
    answers: int
    new_tokens: int
    prompt: tuple[int, int]

    @property
    def num_tokens(self) -> int:
        return self.tasks * self.answers * self.new_tokens

    def prompts(self, vocabulary: int) -> list[list[int]]:
        """Those of a task beside one another: its answers share the prompt."""
        draw = random.Random(1)
        tasks = [[draw.randrange(2, vocabulary) for _ in range(draw.randint(*self.prompt))] for _ in range(self.tasks)]
        return [task for task in tasks for _ in range(self.answers)]


SHAPES = {
    "sums": Shape("example", 32, 8, 6, (4, 6)),
    "example": Shape("example", 8, 8, 64, (4, 6)),
    **{f"{mixer}-{size}": Shape(f"{mixer}-{size}", 8, 8, 64, (100, 130)) for size in SIZES for mixer in MIXERS},
}
"""By name: the round of examples/grpo.py; its model with longer answers; the hybrids of `bench training`."""


def add_options(parser: argparse.ArgumentParser) -> None:
    default = [name for name in SHAPES if not name.endswith("50m")]
    parser.add_argument("--shapes", nargs="+", default=default, choices=list(SHAPES))
    parser.add_argument("--dtype", default="fp32", choices=list(SAME_MODEL))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the models are kept; default: a temporary folder")
    add_clock_option(parser)


def run(options: argparse.Namespace) -> Outcome:
    from hyla.ops.host_memory import keep_freed_memory

    keep_freed_memory()
    rows, seconds = {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.shapes:
            rows[name], times = measured(SHAPES[name], options.folder or Path(scratch), options)
            seconds |= {f"{name}, {side}": found for side, found in times.items()}
            print(shown(name, rows[name]), flush=True)
    passed = all(row["same_model"] and row["ratio"] >= FASTER for row in rows.values())
    return Outcome(rows, passed, seconds=seconds)


def folder_of(name: str, folder: Path) -> Path:
    """The model's folder, written once."""
    if name != "example":
        mixer, _, size = name.rpartition("-")
        return write_model(mixer, size, folder)
    import torch

    from bench.rl.example import model_config
    from hyla.checkpoints import save_model
    from hyla.models.initialize import initialize
    from hyla.models.trunk import Model

    place = folder / name
    if not (place / "config.json").exists():
        with torch.no_grad():
            save_model(initialize(Model(model_config()), 1), place)
    return place


def measured(shape: Shape, folder: Path, options: argparse.Namespace) -> tuple[dict, dict[str, list[float]]]:
    """The row of a shape, and every time that was taken."""
    import torch

    from bench.rollouts.answers import Draws, HylaAnswers, TransformersAnswers, scored
    from hyla.checkpoints import load_model

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[options.dtype]
    place = folder_of(shape.model, folder)
    plain = load_model(place, dtype=dtype)
    sides = {
        "hyla": HylaAnswers(load_model(place, dtype=dtype), max_num_sequences=64),
        "transformers": TransformersAnswers(load_model(place, dtype=dtype), dtype),
    }
    prompts = shape.prompts(plain.config.vocab_size)
    draws = Draws(shape.new_tokens, TEMPERATURE)
    row: dict = {"tokens": shape.num_tokens}
    for name, side in sides.items():
        answers = side.of(prompts, draws)
        assert sum(len(answer.token_ids) for answer in answers) == shape.num_tokens, f"{name} left tokens out"
        own = [value for answer in answers for value in answer.logprobs]
        row[f"{name}_gap"] = gap(own, scored(plain, prompts, answers, TEMPERATURE))
    row["same_model"] = row["transformers_gap"]["largest"] <= SAME_MODEL[options.dtype]
    calls = {name: partial(_round, side, prompts, draws) for name, side in sides.items()}
    times = alternated(calls, options.rounds, warm_up=0, clock=chosen_clock(options))
    row["tokens_s"] = {name: shape.num_tokens / statistics.median(found) for name, found in times.items()}
    pairs = [theirs / ours for ours, theirs in zip(times["hyla"], times["transformers"])]
    row |= {"ratio": statistics.median(pairs), "ratio_low": min(pairs), "ratio_high": max(pairs)}
    if len(pairs) > 1:
        row["interval"] = interval(pairs)
    return row, times


def _round(side, prompts: list[list[int]], draws) -> None:
    """One round; the engine begins without a cache, as after new weights."""
    if hasattr(side, "forget"):
        side.forget()
    side.of(prompts, draws)


def gap(drawn: list[float], new: list[float]) -> dict[str, float]:
    """How far the log-probabilities of one side lie from the trainer's: share of equal ones, largest difference in
    nats, least and largest ratio exp(new - drawn), and the k3 estimate of KL(drawn || new)."""
    differences = [after - before for before, after in zip(drawn, new, strict=True)]
    ratios = [math.exp(one) for one in differences]
    return {
        "exact": sum(one == 0.0 for one in differences) / len(differences),
        "largest": max(map(abs, differences)),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "kl": sum(math.expm1(one) - one for one in differences) / len(differences),
    }


def shown(name: str, row: dict) -> str:
    rates = ", ".join(f"{side} {rate:,.0f} tokens/s" for side, rate in row["tokens_s"].items())
    gaps = [
        f"{side}: {row[f'{side}_gap']['exact']:.1%} exact, {row[f'{side}_gap']['largest']:.1e}"
        for side in row["tokens_s"]
    ]
    ratio = f"{row['ratio']:.2f}x ({row['ratio_low']:.2f}, {row['ratio_high']:.2f})"
    return f"{name:16} {rates}, {ratio}; {'; '.join(gaps)}{'' if row['same_model'] else ': NOT THE SAME MODEL'}"
