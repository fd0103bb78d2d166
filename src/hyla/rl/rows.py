"""Judged answers as the rows of an update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from hyla.data.packing import PackedRows
from hyla.rl.samples import Sample


@dataclass(frozen=True)
class PolicyRows(PackedRows):
    """Prompts with their answers, of which what the model drew is learnt; all further tensors have a number for each
    row [T]."""

    rollout_T: torch.Tensor = field(kw_only=True)
    """float32, nats: the engine's log-probability of the row's target; 0 where it is not learnt."""
    advantages_T: torch.Tensor = field(kw_only=True)
    """float64: of the answer that the target belongs to."""
    weights_T: torch.Tensor = field(kw_only=True)
    """float64: share of the target in the loss of the whole update."""
    reference_T: torch.Tensor | None = field(default=None, kw_only=True)
    """float32, nats: the log-probability under the model that the run began with; None: not asked for."""

    routes_TLk: torch.Tensor | None = field(default=None, kw_only=True)
    """int64: the experts that the row takes in each mixture (`rl.routes`); None: those of the router."""

    @property
    def denominator(self) -> int:
        """The weights are of the whole update."""
        return 1

    def to(self, device: torch.device) -> PolicyRows:
        moved = {name: getattr(self, name) for name in TENSORS}
        return replace(self, **{name: None if x is None else x.to(device) for name, x in moved.items()})

    def micro_batches(self, most_rows: int | None) -> list[PackedRows]:
        found, first = [], 0
        for part in super().micro_batches(most_rows):
            here = slice(first, first + part.tokens_T.shape[0])
            found.append(
                PolicyRows(
                    part.tokens_T,
                    part.targets_T,
                    part.lengths,
                    part.is_learnt_T,
                    rollout_T=self.rollout_T[here],
                    advantages_T=self.advantages_T[here],
                    weights_T=self.weights_T[here],
                    reference_T=None if self.reference_T is None else self.reference_T[here],
                    routes_TLk=None if self.routes_TLk is None else self.routes_TLk[here],
                )
            )
            first = here.stop
        return found


TENSORS = (
    "tokens_T", "targets_T", "is_learnt_T", "rollout_T", "advantages_T", "weights_T", "reference_T", "routes_TLk"
)  # fmt: skip


def rows_of(samples: Sequence[Sample], advantages: Sequence[float], weights_R: torch.Tensor) -> PolicyRows:
    """advantages: of each answer. weights_R: float64, of each token that was sampled, in order."""
    tokens, targets, learnt, rollout, advantage, lengths = [], [], [], [], [], []
    for sample, its_advantage in zip(samples, advantages, strict=True):
        ids, is_drawn, logprobs = [], [], iter(sample.logprobs)
        for read, drawn in sample.pieces():
            ids += [*read, *drawn]
            is_drawn += [False] * len(read) + [True] * len(drawn)
        tokens += ids[:-1]
        targets += ids[1:]
        learnt += is_drawn[1:]
        rollout += [next(logprobs) if own else 0.0 for own in is_drawn[1:]]
        advantage += [its_advantage] * (len(ids) - 1)
        lengths.append(len(ids) - 1)
    learnt_T = torch.tensor(learnt)
    weights_T = torch.zeros(len(learnt), dtype=torch.float64)
    weights_T[learnt_T] = weights_R
    return PolicyRows(
        torch.tensor(tokens),
        torch.tensor(targets),
        tuple(lengths),
        learnt_T,
        rollout_T=torch.tensor(rollout, dtype=torch.float32),
        advantages_T=torch.tensor(advantage, dtype=torch.float64),
        weights_T=weights_T,
    )


def nothing_learnt(sample: Sample) -> PolicyRows:
    """An update without a signal: one answer, of which nothing is learnt."""
    rows = rows_of([sample], [0.0], torch.zeros(len(sample.token_ids), dtype=torch.float64))
    return replace(rows, is_learnt_T=torch.zeros_like(rows.tokens_T, dtype=torch.bool))
