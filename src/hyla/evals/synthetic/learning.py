"""Learning one task from scratch, and how much of it was learnt after so many steps."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from hyla.data.batch_sizes import BatchSizes
from hyla.data.packing import PackedRows
from hyla.errors import DivergedError
from hyla.evals.synthetic.plan import Run, at_length
from hyla.evals.synthetic.protocol import IGNORED, Split, SyntheticTask, examples
from hyla.evals.synthetic.results import Result, Score, read_result
from hyla.models.initialize import initialize
from hyla.models.trunk import Model
from hyla.train.files import held, replace_json
from hyla.train.loop import Trainer
from hyla.train.metrics import StepLines, StepMetrics

TEST_SEED = 0
"""All runs of a task are scored with the same examples."""
ROWS_AT_ONCE = 16_384
"""Rows of a scored forward pass."""


def packed(task: SyntheticTask, split: Split, seed: int, first: int, count: int) -> PackedRows:
    """Examples as documents of one pass; only what is asked is learnt."""
    found = examples(task, split, seed, first, count)
    tokens_T = torch.from_numpy(found.tokens_NL).long().flatten()
    targets_T = torch.from_numpy(found.targets_NL).long().flatten()
    return PackedRows(tokens_T, targets_T.clamp_min(0), (task.length,) * count, targets_T != IGNORED)


class ExampleSource:
    """Steps of examples that never come twice."""

    def __init__(self, task: SyntheticTask, seed: int, per_step: int):
        self.task, self.seed, self.per_step = task, seed, per_step
        self.sizes = BatchSizes(per_step * task.length)

    def step(self, step: int) -> PackedRows:
        return packed(self.task, "train", self.seed, step * self.per_step, self.per_step)


@torch.no_grad()
def right_answers(model: Model, rows: PackedRows) -> torch.Tensor:
    """bool, of each row that is learnt, in order: whether the likeliest token is its target."""
    assert rows.is_learnt_T is not None
    hidden_TD = model(rows.tokens_T, rows.batch)
    said_A = model.head.logits(hidden_TD[rows.is_learnt_T]).argmax(dim=1)
    return said_A == rows.targets_T[rows.is_learnt_T]


@torch.no_grad()
def accuracy(model: Model, passes: Sequence[PackedRows]) -> tuple[float, float]:
    """(share of right answers, share of examples without a wrong one) of examples of one length."""
    right, answers, whole, count = 0, 0, 0, 0
    for rows in passes:
        assert rows.is_learnt_T is not None
        is_right_A = right_answers(model, rows)
        is_wrong_T = torch.zeros_like(rows.is_learnt_T)
        is_wrong_T[rows.is_learnt_T] = ~is_right_A
        answers += is_right_A.shape[0]
        right += int(is_right_A.sum())
        whole += int((~is_wrong_T.view(-1, rows.lengths[0]).any(dim=1)).sum())
        count += len(rows.lengths)
    return right / answers, whole / count


def heldout_passes(task: SyntheticTask, count: int) -> list[PackedRows]:
    """The first `count` examples of the test split."""
    per_pass = max(1, ROWS_AT_ONCE // task.length)
    firsts = range(0, count, per_pass)
    return [packed(task, "test", TEST_SEED, first, min(per_pass, count - first)) for first in firsts]


def learn(run: Run, folder: Path, on_score: Callable[[Score], None] = lambda score: None) -> Result:
    """The result of a run: read from its file in `folder`, or found now and written there. Killed, it goes on."""
    file, work = folder / f"{run.name}.json", folder / "unfinished" / run.name
    if file.exists():
        return read_result(file)
    with held(work):
        result = learnt(run, work, on_score)
        assert result is not None
        replace_json(file, {"run": run.model_dump(mode="json"), **asdict(result)})
        shutil.rmtree(work)
    return result


def learnt(
    run: Run,
    folder: Path,
    on_score: Callable[[Score], None] = lambda score: None,
    on_step: Callable[[StepMetrics], None] = lambda line: None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Result | None:
    """A run's result, found in a folder of its own, in which a killed one goes on. None: it was stopped before."""
    folder.mkdir(parents=True, exist_ok=True)
    model = initialize(Model(run.model_config_made), run.seed)
    trainer = Trainer(model, ExampleSource(run.task, run.seed, run.examples_per_step), run.train_config(), folder)
    curve = StepLines(folder / "curve.jsonl", Score)
    curve.forget_after(trainer.resume())
    scores = Scores(run, trainer, curve, on_score)

    def after_step(line: StepMetrics) -> None:
        scores.after_step(line)
        on_step(line)

    parameters = sum(parameter.numel() for parameter in model.parameters())
    try:
        trainer.run(after_step, lambda: scores.is_enough or is_stopped())
    except DivergedError:  # a result, too: of a rate that is too high
        return Result(curve.read(), {}, parameters, trainer.seconds, diverged=True)
    if trainer.finished_steps < run.steps and not scores.is_enough:
        return None
    by_length = {}
    for length in run.test_lengths:
        by_length[str(length)] = accuracy(model, heldout_passes(at_length(run.task, length), run.test_examples))[0]
    return Result(curve.read(), by_length, parameters, trainer.seconds)


class Scores:
    """Scores a run's model when it is time."""

    def __init__(self, run: Run, trainer: Trainer, curve: StepLines[Score], on_score: Callable[[Score], None]):
        self.run, self.trainer, self.curve, self.on_score = run, trainer, curve, on_score
        self.losses: list[float] = []
        self._passes = heldout_passes(run.task, run.test_examples)
        self.is_enough = any(self._is_enough(score) for score in curve.read())

    def _is_enough(self, score: Score) -> bool:
        return self.run.stop_at is not None and score.accuracy >= self.run.stop_at

    def after_step(self, line: StepMetrics) -> None:
        """Called with each step's line."""
        self.losses.append(line.loss)
        if line.step % self.run.score_every and line.step != self.run.steps:
            return
        right, whole = accuracy(self.trainer.model, self._passes)
        score = Score(line.step, line.tokens, right, whole, sum(self.losses) / len(self.losses))
        self.losses.clear()
        self.curve.append(score)
        self.is_enough = self.is_enough or self._is_enough(score)
        self.on_score(score)
