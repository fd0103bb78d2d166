"""What a trained model of a study is worth: bits per byte, tasks, caches, figures of its layers."""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from hyla.data.epochs import permutation
from hyla.data.packing import TokenStore
from hyla.evals.synthetic import SyntheticTask
from hyla.evals.synthetic.learning import accuracy, heldout_passes
from hyla.evals.synthetic.turns import Turns
from hyla.models.trunk import Model
from hyla.ops.exact.logprobs import of_tokens
from hyla.study.mixture import first_ids, moved, trained_like
from hyla.study.run_key import LanguageRun
from hyla.study.text import Text
from hyla.study.turn_scores import score_turns
from hyla.train.statistics import statistics

ROWS_AT_ONCE = 8192
FIRST_BUCKET = 64
CACHE_CONTEXTS = (1024, 16_384, 65_536, 1_048_576)


@torch.no_grad()
def scored(run: LanguageRun, model: Model, text: Text) -> dict[str, Any]:
    started = time.perf_counter()
    validation_bits, _ = bits(model, text.validation, run.length, run.test_tokens)
    test_bits, by_position = bits(model, text.test, run.length, run.test_tokens)
    first = first_ids(run.tasks)
    tasks, parts = {}, {}
    for name, task in {**run.tasks, **run.test_tasks}.items():
        ids = first[name] if name in run.tasks else first[trained_like(task, run.tasks)]
        if isinstance(task, Turns):
            tasks[name], parts[name] = score_turns(model, task, ids, run.test_examples)
        else:
            tasks[name] = task_accuracy(model, task, ids, run.test_examples)
    return {
        "validation_bits": validation_bits,
        "test_bits": test_bits,
        "bits_by_position": by_position,
        "tasks": tasks,
        "task_parts": parts,
        "layers_inside": _inside(model, text.test, run.length),
        "evaluation_seconds": time.perf_counter() - started,
    }


def task_accuracy(model: Model, task: SyntheticTask, first_id: int, examples: int) -> float:
    """Share of right answers of a task's test split, whose ids begin at `first_id`."""
    return accuracy(model, [moved(rows, first_id) for rows in heldout_passes(task, examples)])[0]


def scored_pieces(store: TokenStore, length: int, most_tokens: int) -> list[tuple[int, int]]:
    """Whole pieces of `length` rows, in an order of their own, at most so many tokens together; of a text without such,
    all its pieces."""
    pieces = store.pieces(length)
    whole = [piece for piece in pieces if piece[1] == length] or pieces
    order = permutation(len(whole), 0, 0).tolist()
    return [whole[number] for number in order[: max(1, most_tokens // length)]]


@torch.no_grad()
def bits(model: Model, store: TokenStore, length: int, most_tokens: int) -> tuple[float, dict[str, float]]:
    """(bits per byte, by first position of a bucket) of pieces of a text, each read from its beginning."""
    sums_L, counts_L = torch.zeros(length, dtype=torch.float64), torch.zeros(length, dtype=torch.float64)
    waiting = scored_pieces(store, length, most_tokens)
    at_once = max(1, ROWS_AT_ONCE // length)
    for first in range(0, len(waiting), at_once):
        rows = store.rows(waiting[first : first + at_once])
        hidden_TD = model(rows.tokens_T, rows.batch)
        bits_T = -of_tokens(model.head_logits(hidden_TD), rows.targets_T).double() / math.log(2)
        places_T = torch.cat([torch.arange(each) for each in rows.lengths])
        sums_L.index_add_(0, places_T, bits_T)
        counts_L.index_add_(0, places_T, torch.ones_like(bits_T))
    buckets, first = {}, 0
    while first < length and counts_L[first] > 0:
        last = max(FIRST_BUCKET, 2 * first)
        buckets[str(first)] = float(sums_L[first:last].sum() / counts_L[first:last].sum())
        first = last
    return float(sums_L.sum() / counts_L.sum()), buckets


def _inside(model: Model, store: TokenStore, length: int) -> dict[str, tuple[float, ...]]:
    """By figure, one number for each mixer: the largest activation of its output, and attention's mass on the first
    token (0 where the layer has no attention)."""
    rows = store.rows(scored_pieces(store, length, 4 * length))
    lines = [line for line in statistics(model, 0, rows, 4 * length) if line.kind not in ("mlp", "moe", "head")]
    return {
        name: tuple(_number(line.figures.get(key, 0.0)) for line in lines)
        for name, key in (
            ("sink_mass", "sink_mass"),
            ("largest_activation", "stream_max"),
            ("largest_output", "output_max"),
        )
    }


def _number(figure: float | list[float]) -> float:
    return max(figure) if isinstance(figure, list) else float(figure)


def cache_bytes(model: Model) -> dict[str, int]:
    """By context, what decoding keeps of one sequence."""
    specs = model.cache_specs()
    return {str(context): sum(spec.bytes_at(context) for spec in specs) for context in CACHE_CONTEXTS}
