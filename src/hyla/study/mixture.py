"""Steps of text and of tasks, in fixed shares."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from hyla.data.batch_sizes import BatchSizes
from hyla.data.packing import PackedRows, Packer, TokenStore
from hyla.evals.synthetic import SyntheticTask
from hyla.evals.synthetic.learning import packed
from hyla.study.text import TEXT_IDS


def moved(rows: PackedRows) -> PackedRows:
    """A task's rows with ids behind those of text."""
    assert rows.is_learnt_T is not None
    return PackedRows(rows.tokens_T + TEXT_IDS, rows.targets_T + TEXT_IDS, rows.lengths, rows.is_learnt_T)


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
        self.sizes = BatchSizes(tokens)
        of_tasks = sum(task.length * task_examples[name] for name, task in tasks.items())
        self._text = Packer(text, BatchSizes(tokens - of_tasks), max_document_tokens=length, seed=seed)

    def step(self, step: int) -> PackedRows:
        """The rows of optimizer step `step` (0-based)."""
        parts = [self._text.step(step)]
        for name, task in self.tasks.items():
            count = self.task_examples[name]
            parts.append(moved(packed(task, "train", self.seed, step * count, count)))
        return joined(parts)
