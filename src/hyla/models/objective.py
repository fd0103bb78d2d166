"""What a model is trained on: the next token, the tokens after it, and small logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch

from hyla.layers.carry import beginning
from hyla.layers.head import Head
from hyla.layers.lesson import Lesson
from hyla.models.mtp import Hidden
from hyla.ops.batch import Batch


class Scored(Protocol):
    """What of a model losses are made with (`models.trunk.Model`)."""

    head: Head

    @property
    def num_mtp_steps(self) -> int: ...

    def head_of_step(self, step: int) -> Head: ...

    def predict_next(self, tokens_T: torch.Tensor, next_TD: torch.Tensor, batch: Batch, *, step: int) -> Hidden: ...


@dataclass(frozen=True)
class Targets:
    """What a forward call is to be scored against."""

    tokens_T: torch.Tensor
    """int64 [T]: the token after each row."""
    chunk_rows: int
    """Rows whose logits live at once: memory against the size of products."""
    is_learnt_T: torch.Tensor | None = None
    """bool [T]: the rows whose targets count (a conversation's answers); None: all."""
    denominator: int | None = None
    """What all sums over rows are divided by: the learnt rows of a whole step, when this call is a part of one. None:
    this call's learnt rows."""
    mtp_weight: float = 0.0
    """Weight of the loss of multi-token prediction, the mean over its steps (arXiv 2412.19437, eq. 25)."""
    z_weight: float = 0.0
    """Weight of the mean squared logsumexp of the logits."""
    lesson: Lesson | None = None
    """Of the model's indexers, which its layers have too; None: they learn nothing."""
    indexer_weight: float = 1.0
    """Weight of their loss, the sum over layers of the mean divergence."""


class Losses(NamedTuple):
    """Scalars of one forward call, in nats per learnt row. Only `total` has a gradient."""

    total: torch.Tensor
    next_token: torch.Tensor
    mtp: torch.Tensor
    """Mean over the steps of multi-token prediction, 0 where it has no weight. A step's sum is divided by the same
    number of rows, though a document's last rows have no target so far ahead."""
    z: torch.Tensor
    indexer: torch.Tensor
    """How far index scores are from what attention reads: a sum over layers, 0 without a lesson."""


def losses_of(model: Scored, hidden: Hidden, batch: Batch, targets: Targets) -> Losses:
    """The losses of hidden states that `Model.hidden` gave for the rows of `batch`."""
    learnt_T, denominator = targets.is_learnt_T, targets.denominator
    if denominator is None:
        denominator = hidden.head_TD.shape[0] if learnt_T is None else int(learnt_T.sum())
    denominator = max(1, denominator)
    scored = {"chunk_rows": targets.chunk_rows, "denominator": denominator}
    total, z = model.head.loss(
        *_selected(hidden.head_TD, targets.tokens_T, learnt_T), **scored, z_weight=targets.z_weight
    )
    next_token = total.detach() - targets.z_weight * z if targets.z_weight else total.detach()
    mtp, owed = torch.zeros_like(next_token), _owed(targets.lesson, learnt_T)
    if targets.mtp_weight:
        further, of_steps = _further(model, hidden, batch, targets, scored)
        total, mtp, owed = total + targets.mtp_weight * further, further.detach(), owed + of_steps
    indexer = torch.zeros_like(next_token)
    if targets.lesson is not None:
        targets.lesson.end()
        divergence = torch.stack(owed).sum() / denominator
        indexer = divergence.detach()
        # While they warm up, nothing else learns.
        total = targets.indexer_weight * divergence + (0.0 if targets.lesson.stage == "warmup" else total)
    return Losses(total, next_token, mtp, z, indexer)


def _owed(lesson: Lesson | None, is_scored_T: torch.Tensor | None) -> list[torch.Tensor]:
    """Each layer's divergence since this was asked last, summed over the rows that count."""
    found = [] if lesson is None else lesson.take()
    return [(one_T if is_scored_T is None else one_T[is_scored_T]).sum() for one_T in found]


def _selected(hidden_TD: torch.Tensor, tokens_T: torch.Tensor, is_scored_T: torch.Tensor | None):
    """The rows that have logits."""
    return (hidden_TD, tokens_T) if is_scored_T is None else (hidden_TD[is_scored_T], tokens_T[is_scored_T])


def _further(model: Scored, hidden: Hidden, batch: Batch, targets: Targets, scored: dict):
    """The mean loss of all steps of multi-token prediction, and what their indexers owe. Step k reads the token k + 1
    places on and guesses the one after it, within its own sequence."""
    # Of pieces that go on from others, these modules see the rows of this call alone, as all softmax attention does.
    batch = beginning(batch)
    left_T = torch.cat([torch.arange(length - 1, -1, -1) for length in batch.lengths]).to(hidden.next_TD.device)
    inputs_T, losses, owed = targets.tokens_T, [], []
    for step in range(model.num_mtp_steps):
        hidden = model.predict_next(inputs_T, hidden.next_TD, batch, step=step)
        # A sequence's last rows look past its end: they read the start of the next one, and are not scored.
        goals_T, is_scored_T = inputs_T.roll(-1), left_T > step
        if targets.is_learnt_T is not None:
            is_scored_T = is_scored_T & targets.is_learnt_T.roll(-1 - step)
        owed += _owed(targets.lesson, is_scored_T)
        head = model.head_of_step(step)
        losses.append(head.loss(*_selected(hidden.head_TD, goals_T, is_scored_T), **scored)[0])
        inputs_T = goals_T
    return torch.stack(losses).mean(), owed
