"""The trainer of a policy: an update is made of the answers of a round, which the weights before it gave."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch

from hyla.adapters import LoraConfig
from hyla.data.packing import PackedRows
from hyla.errors import CheckpointError
from hyla.models.trunk import Model
from hyla.ops.exact.logprobs import token_logprobs, token_logprobs_and_entropy
from hyla.rl.advantages import advantages, is_equal
from hyla.rl.config import PolicyConfig
from hyla.rl.handover import HandsOver
from hyla.rl.heldout import HeldoutScores
from hyla.rl.metrics import RoundMetrics, UpdateMetrics, tool_metrics
from hyla.rl.objective import PolicyLosses, policy_loss, ratios, token_weights
from hyla.rl.rollouts import Rollouts
from hyla.rl.routes import KnownRoutes, Replay
from hyla.rl.rows import PolicyRows, nothing_learnt, rows_of
from hyla.rl.samples import Sample
from hyla.train.config import TrainConfig
from hyla.train.loop import StepResult, Trainer
from hyla.train.metrics import StepLines


class RoundSizes:
    """Rows of the updates of the rounds that were read."""

    def __init__(self):
        self._rows: dict[int, int] = {}

    def put(self, step: int, rows: int) -> None:
        self._rows[step] = rows

    def of(self, step: int) -> int:
        return self._rows.get(step, 0)

    def before(self, step: int) -> int:
        return sum(rows for number, rows in self._rows.items() if number < step)


class RoundSource:
    """Updates of the rounds that were sampled; `PolicyTrainer` says when."""

    def __init__(self):
        self.sizes = RoundSizes()
        self._updates: dict[int, PolicyRows] = {}

    def put(self, first: int, updates: Sequence[PolicyRows]) -> None:
        """The updates of a round, which begins with step `first`."""
        self._updates = {first + place: rows for place, rows in enumerate(updates)}
        for step, rows in self._updates.items():
            self.sizes.put(step, rows.tokens_T.shape[0])

    def has(self, step: int) -> bool:
        return step in self._updates

    def step(self, step: int) -> PolicyRows:
        return self._updates[step]


class Seen(NamedTuple):
    """What a pass found of its learnt tokens."""

    losses: PolicyLosses
    ratio_R: torch.Tensor
    entropy_R: torch.Tensor


class PolicyTrainer(Trainer):
    """A run over rounds of answers.

    Exactness: the first update of a round is on-policy: every ratio exp(new - rollout) is exactly 1, since the engine
    that sampled and the forward that is trained are one arithmetic, whatever was cached, drafted or batched.
    """

    names = ("loss",)
    source: RoundSource

    def __init__(
        self,
        model: Model,
        config: TrainConfig,
        folder: Path,
        policy: PolicyConfig,
        *,
        temperature: float,
        max_tokens: int,
        reference: Model | None = None,
        lora: LoraConfig | None = None,
    ):
        """reference: the model that kl_weight compares with, frozen. The rollouts come later, by `sample_with`: their
        engine needs the model as this makes it."""
        super().__init__(model, RoundSource(), config, folder, lora=lora)
        self.policy, self.temperature, self.max_tokens = policy, temperature, max_tokens
        self.reference = reference
        self.rounds = StepLines(folder / "rounds.jsonl", RoundMetrics)
        self.updates = StepLines(folder / "updates.jsonl", UpdateMetrics)
        self.on_round: Callable[[RoundMetrics], None] = lambda line: None
        self.on_update: Callable[[UpdateMetrics], None] = lambda line: None
        self.scores: HeldoutScores | None = None
        self.replay = Replay(model) if policy.replay_routes else None
        self._seen: list[Seen] = []
        self._num_tokens = 0

    @property
    def learnt_names(self) -> set[str]:
        """Parameters of the model that change."""
        learnt = {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        return learnt | self.routing.moved_names

    def sample_with(self, rollouts: Rollouts, hand_over: HandsOver) -> None:
        self.rollouts, self.hand_over = rollouts, hand_over

    # Rounds

    def round_of(self, step: int) -> tuple[int, int]:
        """(round, place in it) of an optimizer step."""
        return divmod(step, self.policy.updates_per_round)

    def update(self, step: int) -> StepResult:
        if not self.source.has(step):
            self.score(step)
            self._begin_round(step)
        self._seen.clear()
        self._num_tokens = self.source.step(step).num_learnt
        started = time.perf_counter()
        with nullcontext() if self.replay is None else self.replay.update():
            result = super().update(step)
        if result.fault is None:
            line = self._measured(step, time.perf_counter() - started)
            self.updates.append(line)
            self.on_update(line)
        return result

    def score(self, step: int) -> None:
        """The held-out tasks with the weights after `step` steps, when it is time and nobody has done it yet."""
        number, place = self.round_of(step)
        is_last = step == self.config.steps
        if self.scores is None or (place and not is_last) or not self.scores.is_due(number, is_last):
            return
        if all(line.step != step for line in self.scores.lines.read()):
            self.scores.score(step)

    def _begin_round(self, step: int) -> None:
        number, place = self.round_of(step)
        is_complete = self.rollouts.is_complete(number)
        if place and not is_complete:
            raise CheckpointError(
                f"{self.rollouts.file(number).path} is not whole, and the weights that gave its answers are gone: the "
                f"run is {place} updates further; delete the newest folder of {self.folder / 'checkpoints'}, and the "
                "same command goes on from the one before"
            )
        before = replace(self.rollouts.shares)
        if not is_complete:
            with self.rollouts.shares.timed("handover"):
                self.hand_over()
        groups = self.rollouts.round(number)
        self.source.put(step - place, self._updates(groups))
        if not place:
            line = _round_metrics(step, number, groups, before, self.rollouts)
            self.rounds.append(line)
            self.on_round(line)

    def _updates(self, groups: list[list[Sample]]) -> list[PolicyRows]:
        """The rows of each update of a round. Answers stay in order; none is in two updates."""
        policy = self.policy
        found = advantages([[sample.reward for sample in group] for group in groups], policy.advantage)
        kept = [
            (sample, advantage)
            for group, values in zip(groups, found)
            if not (policy.drop_equal_groups and is_equal([sample.reward for sample in group]))
            for sample, advantage in zip(group, values)
            if advantage is not None and sample.token_ids
        ]
        count = policy.updates_per_round
        bounds = [len(kept) * place // count for place in range(count + 1)]
        known = None if self.replay is None else KnownRoutes(sample for group in groups for sample in group)
        return [self._rows(kept[first:end], groups, known) for first, end in pairwise(bounds)]

    def _rows(
        self, kept: list[tuple[Sample, float]], groups: list[list[Sample]], known: KnownRoutes | None
    ) -> PolicyRows:
        if not kept:
            return nothing_learnt(groups[0][0])
        samples, found = [sample for sample, _ in kept], [advantage for _, advantage in kept]
        lengths = [len(sample.token_ids) for sample in samples]
        counts = {"num_samples": len(samples), "num_tokens": sum(lengths), "max_tokens": self.max_tokens}
        rows = rows_of(samples, found, token_weights(lengths, self.policy.normalise, **counts))
        if known is not None and self.replay is not None:
            rows = replace(rows, routes_TLk=known.of(samples, self.replay.shape))
        return rows if self.reference is None else replace(rows, reference_T=self._under_reference(rows))

    @torch.no_grad()
    def _under_reference(self, rows: PolicyRows) -> torch.Tensor:
        """The log-probabilities of an update's targets under the first model, a pass at a time."""
        assert self.reference is not None
        parts = []
        for part in rows.micro_batches(self.config.micro_batch_tokens):
            part = part.to(self.reference.device)
            hidden_TD = self.reference(part.tokens_T, part.batch)
            weight_VD = self.reference.head.weight
            options = {"chunk_rows": self.config.loss_rows, "temperature": self.temperature}
            parts.append(token_logprobs(hidden_TD, weight_VD, part.targets_T, **options).cpu())
        return torch.cat(parts)

    # Updates

    def _losses(self, rows: PackedRows, denominator: int) -> PolicyLosses:
        assert isinstance(rows, PolicyRows) and rows.is_learnt_T is not None
        learnt_T = rows.is_learnt_T
        routes_TLk = rows.routes_TLk
        with nullcontext() if self.replay is None or routes_TLk is None else self.replay.forward(routes_TLk):
            hidden_TD = self.model(rows.tokens_T, rows.batch)
        rollout_R = rows.rollout_T[learnt_T]
        new_R, entropy_R = token_logprobs_and_entropy(
            hidden_TD[learnt_T],
            self.model.head.weight,
            rows.targets_T[learnt_T],
            chunk_rows=self.config.loss_rows,
            temperature=self.temperature,
        )
        losses = policy_loss(
            new_R,
            rollout_R,
            rows.advantages_T[learnt_T],
            rows.weights_T[learnt_T],
            clip_low=self.policy.clip_low,
            clip_high=self.policy.clip_high,
            reference_R=None if rows.reference_T is None else rows.reference_T[learnt_T],
            kl_weight=self.policy.kl_weight,
            num_tokens=self._num_tokens,
        )
        self._seen.append(Seen(losses, ratios(new_R, rollout_R), entropy_R))
        return losses

    def _measured(self, step: int, seconds: float) -> UpdateMetrics:
        number, _ = self.round_of(step)
        if not self._seen:
            return UpdateMetrics(step + 1, number, 0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, None, seconds)
        losses = [seen.losses for seen in self._seen]
        ratio_R = torch.cat([seen.ratio_R for seen in self._seen])
        difference_R = ratio_R.log()
        entropy_R = torch.cat([seen.entropy_R for seen in self._seen])
        return UpdateMetrics(
            step=step + 1,
            round=number,
            tokens=ratio_R.shape[0],
            loss=sum(float(one.loss) for one in losses),
            ratio_min=float(ratio_R.min()),
            ratio_mean=float(ratio_R.mean()),
            ratio_max=float(ratio_R.max()),
            exact_ratios=float((ratio_R == 1.0).double().mean()),
            clipped=sum(float(one.clipped) for one in losses),
            entropy=float(entropy_R.double().mean()),
            kl=None if self.reference is None else sum(float(one.kl) for one in losses),
            seconds=seconds,
            rollout_kl=float((difference_R.expm1() - difference_R).mean()),
            **({} if self.replay is None else self.replay.shares),
        )

    def _forget_later_lines(self) -> None:
        super()._forget_later_lines()
        self.updates.forget_after(self.finished_steps)
        # A round's line is written before its first update.
        self.rounds.forget_after(self.finished_steps - 1)
        if self.scores is not None:
            self.scores.lines.forget_after(self.finished_steps)
        for line in self.metrics.read():
            rows = line.tokens - self.source.sizes.before(line.step - 1)
            self.source.sizes.put(line.step - 1, rows)


def _round_metrics(step: int, number: int, groups: list[list[Sample]], before, rollouts: Rollouts) -> RoundMetrics:
    samples = [sample for group in groups for sample in group]
    rewards = [sample.reward for sample in samples if sample.reward is not None]
    mean = sum(rewards) / len(rewards) if rewards else None
    std = None
    if mean is not None:
        std = (sum((reward - mean) ** 2 for reward in rewards) / len(rewards)) ** 0.5
    shares = rollouts.shares
    return RoundMetrics(
        step=step,
        round=number,
        answers=len(samples),
        reward=mean,
        reward_std=std,
        equal_groups=sum(is_equal([sample.reward for sample in group]) for group in groups),
        left_out=len(samples) - len(rewards),
        tokens=sum(len(sample.token_ids) for sample in samples) / len(samples),
        too_long=sum(sample.finish_reason == "length" for sample in samples) / len(samples),
        cached_tokens=sum(sample.cached_tokens for sample in samples),
        drafted_tokens=sum(sample.drafted_tokens for sample in samples),
        accepted_tokens=sum(sample.accepted_tokens for sample in samples),
        rollout_seconds=shares.rollout - before.rollout,
        reward_seconds=shares.reward - before.reward,
        handover_seconds=shares.handover - before.handover,
        **tool_metrics(samples),
    )
