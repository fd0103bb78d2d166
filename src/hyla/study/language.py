"""One run of a study: one arm learns text and tasks with a budget of FLOPs, and is scored."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from hyla.cost.parameters import count_parameters
from hyla.cost.training import train_flops_per_token
from hyla.data.epochs import permutation
from hyla.data.packing import TokenStore
from hyla.errors import ConfigError, DivergedError
from hyla.evals.synthetic import AnyTask, SyntheticTask
from hyla.evals.synthetic.learning import accuracy, heldout_passes
from hyla.evals.synthetic.turns import Turns
from hyla.models.config import Count, DerivingConfig, ModelConfig
from hyla.models.initialize import initialize
from hyla.models.trunk import Model
from hyla.ops.exact.logprobs import of_tokens
from hyla.study.arms import file_name, model_config_of, modules_of
from hyla.study.execution.progress import Progress, Stopped
from hyla.study.machine import machine
from hyla.study.mixture import StudySource, first_ids, moved, text_lengths
from hyla.study.results import LanguageFigures
from hyla.study.sizes import Size
from hyla.study.text import TEXT_IDS, Text, read_text
from hyla.study.turn_scores import score_parts
from hyla.train.config import Rate, TrainConfig
from hyla.train.loop import Trainer
from hyla.train.metrics import StepMetrics
from hyla.train.statistics import statistics

VERSION = 1
MATRIX_RATE = 20 / 3
"""Muon's rate in rates: 0.02 beside 3e-3."""
ROWS_AT_ONCE = 8192
CURVE_POINTS = 40
FLOPS_TOLERANCE = 0.01
"""Largest difference between what a run was to cost and what it costs, as a share."""
MOST_COUNTED_STEPS = 1024
"""Whose pieces are looked at, to know what a step costs in the mean."""
FIRST_BUCKET = 64
CACHE_CONTEXTS = (1024, 16_384, 65_536, 1_048_576)
MAX_LEN = 1 << 20


@lru_cache(maxsize=256)
def flops_by_length(config: ModelConfig, longest: int) -> tuple[float, ...]:
    """FLOPs of training on a document of 0, 1, ... `longest` rows."""
    return 0.0, *(length * train_flops_per_token(config, length) for length in range(1, longest + 1))


class LanguageRun(DerivingConfig):
    """The key of a run: on one machine, its result is a function of these fields. `arm` is a label, not part of it."""

    kind: Literal["language"] = "language"
    version: Literal[1] = VERSION
    arm: str
    layers: tuple[str, ...]
    modules: dict[str, dict[str, Any]]
    """The study's own, over those of the size."""
    changes: dict[str, Any]
    size: Size
    budget: Annotated[float, Field(gt=0)]
    """FLOPs of training, forward and backward."""
    rate: Rate
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    data: str
    """Digest of the text."""
    text: str | None
    """Folder of the text; None: Python's standard library. Not part of the key: `data` is."""
    tasks: dict[str, AnyTask]
    test_tasks: dict[str, AnyTask] = Field(default_factory=dict)
    """Scored and not trained: longer or harder forms of `tasks`, with the same ids."""
    task_share: Annotated[float, Field(ge=0, lt=1)]
    length: Count
    batch_tokens: Count
    optimizer: Literal["adamw", "muon"]
    dtype: Literal["fp32", "bf16"]
    test_tokens: Count
    test_examples: Count

    @cached_property
    def digest(self) -> str:
        """Of all that the result is a function of, the model's defaults included."""
        whole = f"{self.key} {self.model_config_made.model_dump_json()}"
        return hashlib.sha256(whole.encode()).hexdigest()[:12]

    @property
    def key(self) -> dict[str, Any]:
        """As a result file has it, without what is no part of it."""
        return self.model_dump(mode="json", exclude={"arm", "text"})

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{file_name(self.arm)}-{self.budget:.3g}-{self.seed}-{self.rate:g}-{self.digest}".replace("+", "")

    @property
    def told(self) -> str:
        """In one line."""
        return f"{self.arm}, {self.size.hidden_dim} wide, {self.budget:.3g} FLOPs, rate {self.rate:g}, seed {self.seed}"

    @property
    def vocab_size(self) -> int:
        return TEXT_IDS + sum(task.vocab_size for task in self.tasks.values())

    @cached_property
    def model_config_made(self) -> ModelConfig:
        """The model. Raises ConfigError, which names the arm, for fields that do not fit together."""
        try:
            modules = modules_of(self.size, self.modules, self.changes)
            return model_config_of(self.size, self.layers, modules, self.vocab_size, MAX_LEN)
        except ConfigError as error:
            raise ConfigError(f"arm {self.arm!r}: {error}") from None

    @property
    def longest(self) -> int:
        """Tokens of the longest document."""
        return max([self.length, *(task.length for task in self.tasks.values())])

    @property
    def num_parameters(self) -> int:
        """Of the model."""
        return count_parameters(self.model_config_made).total

    @property
    def task_examples(self) -> dict[str, int]:
        """Examples of a step: each task has an equal part of the tasks' rows."""
        each = self.batch_tokens * self.task_share / max(1, len(self.tasks))
        return {name: max(1, round(each / task.length)) for name, task in self.tasks.items()}

    @cached_property
    def flops_per_step(self) -> float:
        """Of text as it is read (a step ends inside a piece, and few are whole), and of each task at its length."""
        config, total, text = self.model_config_made, 0.0, self.batch_tokens
        for name, task in self.tasks.items():
            rows = self.task_examples[name] * task.length
            total += rows * train_flops_per_token(config, task.length)
            text -= rows
        if text < self.length:
            raise ConfigError(
                f"a step of {self.batch_tokens} tokens has {text} left for text, less than one piece of "
                f"length = {self.length}; make batch_tokens larger or task_share smaller"
            )
        whole = text * train_flops_per_token(config, self.length)
        steps = min(MOST_COUNTED_STEPS, max(1, round(self.budget / (total + whole))))
        pieces = text_lengths(text_of(self).train, text, self.length, self.seed, steps)
        model: Any = config  # frozen, and so hashable, which pyright does not see
        by_length = flops_by_length(model, self.length)
        return total + sum(count * by_length[rows] for rows, count in pieces) / steps

    @property
    def steps(self) -> int:
        """Optimizer steps. Raises ConfigError where no number of steps costs the budget within 1%."""
        steps = max(1, round(self.budget / self.flops_per_step))
        if abs(steps * self.flops_per_step / self.budget - 1) > FLOPS_TOLERANCE:
            raise ConfigError(
                f"arm {self.arm!r} cannot be matched: a step costs {self.flops_per_step:.3g} FLOPs, and no number of "
                f"them is within {FLOPS_TOLERANCE:.0%} of {self.budget:.3g}; make the budget larger or batch_tokens "
                "smaller"
            )
        return steps

    @property
    def flops(self) -> float:
        """Of the whole training."""
        return self.steps * self.flops_per_step

    @property
    def tokens(self) -> int:
        """Of the whole training."""
        return self.steps * self.batch_tokens

    def train_config(self, steps: int) -> TrainConfig:
        """Warm-up, constant, a linear decay, as `hyla train` has them."""
        return TrainConfig(
            steps=steps,
            seed=self.seed,
            dtype=self.dtype,
            batch_tokens=self.batch_tokens,
            max_document_tokens=self.length,
            optimizer=self.optimizer,
            learning_rate=self.rate,
            matrix_learning_rate=min(self.rate * MATRIX_RATE, 0.99),
            loss_rows=4096,
            checkpoint_every=max(50, steps // 4),
            checkpoints_kept=1,
        )


def execute(run: LanguageRun, work: Path) -> dict[str, Any]:
    """Train and score; goes on where a killed one was, if `work` is its folder (`study.execution`).

    Returns the result as it is written: `run` and the fields of `LanguageFigures`. Raises ConfigError where the text is
    another one than the key's, and Stopped where it was asked to stop.
    """
    work.mkdir(parents=True, exist_ok=True)
    text = text_of(run)
    if text.digest != run.data:
        raise ConfigError(f"the text has changed: its digest is {text.digest}, and this run wants {run.data}")
    trainer = trainer_of(run, work)
    trainer.resume()
    progress = Progress(work)
    try:
        trainer.run(lambda line: progress.tell(line.step, run.steps, line.tokens), progress.is_stopped)
    except DivergedError:  # a result, too: of a rate that is too high
        return _result(run, trainer, {"validation_bits": None, "test_bits": None})
    if trainer.finished_steps < run.steps:
        raise Stopped
    return _result(run, trainer, _scored(run, trainer.model, text))


def text_of(run: LanguageRun) -> Text:
    """What it reads."""
    return read_text(None if run.text is None else Path(run.text))


def trainer_of(run: LanguageRun, work: Path, steps: int | None = None) -> Trainer:
    """Of a run that begins. steps: of it; None: what its budget buys."""
    source = StudySource(
        text_of(run).train, run.tasks, run.task_examples, tokens=run.batch_tokens, length=run.length, seed=run.seed
    )
    model = initialize(Model(run.model_config_made), run.seed)
    return Trainer(model, source, run.train_config(steps or run.steps), work)


def _result(run: LanguageRun, trainer: Trainer, scores: dict[str, Any]) -> dict[str, Any]:
    figures = LanguageFigures(
        flops=run.flops,
        steps=run.steps,
        tokens=run.tokens,
        parameters=sum(parameter.numel() for parameter in trainer.model.parameters()),
        curve=_curve(trainer.metrics.read()),
        seconds=trainer.seconds,
        machine=machine(),
        cache_bytes=cache_bytes(trainer.model),
        **scores,
    )
    # Without the folder of the text: it is of this machine, and files go elsewhere.
    return {"run": run.model_dump(mode="json", exclude={"text"}), **figures.model_dump(mode="json")}


def cache_bytes(model: Model) -> dict[str, int]:
    """By context, what decoding keeps of one sequence."""
    specs, found = model.cache_specs(), {}
    for context in CACHE_CONTEXTS:
        total = 0
        for spec in specs:
            seen = context if spec.window is None else min(context, spec.window + FIRST_BUCKET)
            total += spec.bytes_per_token * seen + spec.bytes_per_sequence
        found[str(context)] = total
    return found


def _curve(lines: list[StepMetrics]) -> tuple[tuple[int, int, float | None], ...]:
    """Means over equal stretches of the run."""
    every = max(1, -(-len(lines) // CURVE_POINTS))
    found = []
    for first in range(0, len(lines), every):
        part = lines[first : first + every]
        loss = sum(line.loss for line in part) / len(part)
        found.append((part[-1].step, part[-1].tokens, loss if math.isfinite(loss) else None))
    return tuple(found)


@torch.no_grad()
def _scored(run: LanguageRun, model: Model, text: Text) -> dict[str, Any]:
    started = time.perf_counter()
    validation_bits, _ = bits(model, text.validation, run.length, run.test_tokens)
    test_bits, by_position = bits(model, text.test, run.length, run.test_tokens)
    first = first_ids(run.tasks)
    tasks, parts = {}, {}
    for name, task in {**run.tasks, **run.test_tasks}.items():
        ids = first[name] if name in run.tasks else first[trained_like(task, run.tasks)]
        tasks[name] = task_accuracy(model, task, ids, run.test_examples)
        if isinstance(task, Turns):
            parts[name] = score_parts(model, task, ids, run.test_examples)
    return {
        "validation_bits": validation_bits,
        "test_bits": test_bits,
        "bits_by_position": by_position,
        "tasks": tasks,
        "task_parts": parts,
        "layers_inside": _inside(model, text.test, run.length),
        "evaluation_seconds": time.perf_counter() - started,
    }


def trained_like(task: SyntheticTask, trained: Mapping[str, SyntheticTask]) -> str:
    """The trained task whose ids another one has. Raises ConfigError where there is none."""
    for name, other in trained.items():
        if (other.kind, other.vocab_size) == (task.kind, task.vocab_size):
            return name
    raise ConfigError(
        f"test_tasks: a {task.kind} of {task.vocab_size} ids is like none of the trained tasks, so nobody learns it"
    )


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
