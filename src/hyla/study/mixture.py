"""Steps of text and of tasks, in fixed shares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache

import torch

from hyla.data.batch_sizes import BatchSizes
from hyla.data.packing import PackedRows, Packer, TokenStore
from hyla.errors import ConfigError
from hyla.evals.synthetic import SyntheticTask
from hyla.evals.synthetic.learning import packed
from hyla.study.text import TEXT_IDS

LENGTHS_AND_LOADS = ("length", "statements", "tools", "tool_tokens", "questions", "hops", "pairs", "needles", "power")
"""Fields of tasks that no id depends on."""


def first_ids(tasks: Mapping[str, SyntheticTask]) -> dict[str, int]:
    """By task, what its ids are moved up by: behind those of text and of the tasks before it. Tasks of one kind whose
    ids mean the same have the same ones: they differ in length or load, and what one teaches the other knows."""
    by_form: dict[str, int] = {}
    first = TEXT_IDS
    for task in tasks.values():
        if _form(task) not in by_form:
            by_form[_form(task)] = first
            first += task.vocab_size
    return {name: by_form[_form(task)] for name, task in tasks.items()}


def num_ids(tasks: Mapping[str, SyntheticTask]) -> int:
    """Of text and all tasks."""
    return max((first + tasks[name].vocab_size for name, first in first_ids(tasks).items()), default=TEXT_IDS)


def _form(task: SyntheticTask) -> str:
    """What its ids mean: all fields but those of how long and how hard it is."""
    return task.model_dump_json(exclude=set(LENGTHS_AND_LOADS))


@lru_cache(maxsize=256)
def text_lengths(text: TokenStore, tokens: int, length: int, seed: int, steps: int) -> tuple[tuple[int, int], ...]:
    """(rows, how often) of the pieces that the first steps read of a text, `tokens` rows a step. Most are shorter than
    `length`: a step ends inside a piece, and what is left of it begins anew in the next one."""
    packer = Packer(text, BatchSizes(tokens), max_document_tokens=length, seed=seed)
    return tuple(sorted(Counter(rows for step in range(steps) for rows in packer.step(step).lengths).items()))


def moved(rows: PackedRows, by: int) -> PackedRows:
    """A task's rows with other ids."""
    return PackedRows(rows.tokens_T + by, rows.targets_T + by, rows.lengths, rows.is_learnt_T)


def joined(parts: list[PackedRows]) -> PackedRows:
    """Documents of several packs in one."""
    learnt = [torch.ones_like(p.tokens_T, dtype=torch.bool) if p.is_learnt_T is None else p.is_learnt_T for p in parts]
    return PackedRows(
        torch.cat([part.tokens_T for part in parts]),
        torch.cat([part.targets_T for part in parts]),
        tuple(length for part in parts for length in part.lengths),
        torch.cat(learnt),
    )


class StudySource:
    """Steps of `tokens` rows, of which each task has its own number; the others are text.

    task_examples: by task name, examples of a step. Nothing that a step reads depends on the arm: of two arms with
    equal seeds, step s reads the same.
    """

    def __init__(
        self,
        text: TokenStore,
        tasks: Mapping[str, SyntheticTask],
        task_examples: Mapping[str, int],
        *,
        tokens: int,
        length: int,
        seed: int,
    ):
        self.tasks, self.task_examples, self.seed = tasks, task_examples, seed
        self._first_ids = first_ids(tasks)
        self.sizes = BatchSizes(tokens)
        of_tasks = sum(task.length * task_examples[name] for name, task in tasks.items())
        self._text = Packer(text, BatchSizes(tokens - of_tasks), max_document_tokens=length, seed=seed)

    def step(self, step: int) -> PackedRows:
        """The rows of optimizer step `step` (0-based)."""
        parts = [self._text.step(step)]
        for name, task in self.tasks.items():
            count = self.task_examples[name]
            rows = packed(task, "train", self.seed, step * count, count)
            parts.append(moved(rows, self._first_ids[name]))
        return joined(parts)


def trained_like(task: SyntheticTask, trained: Mapping[str, SyntheticTask]) -> str:
    """The trained task whose ids another one has. Raises ConfigError where there is none."""
    for name, other in trained.items():
        if _form(other) == _form(task):
            return name
    raise ConfigError(
        f"test_tasks: a {task.kind} of {task.vocab_size} ids is like none of the trained tasks, so nobody learns it"
    )
