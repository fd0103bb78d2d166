"""What a run writes down about its rounds and updates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hyla.rl.samples import Sample


@dataclass(frozen=True)
class RoundMetrics:
    """step: optimizer steps before the round. reward: mean over judged answers, and its standard deviation.
    equal_groups: tasks whose answers all got the same. left_out: answers without a reward. tokens: per answer.
    too_long: share of answers that max_tokens ended. cached_tokens, drafted_tokens, accepted_tokens: of the whole
    round. *_seconds: spent on it; 0 where an earlier process did it. turns: per answer; tool_calls: that were made in
    the whole round; tool_errors: those that failed, and texts that look like calls and are none. None without tools."""

    step: int
    round: int
    answers: int
    reward: float | None
    reward_std: float | None
    equal_groups: int
    left_out: int
    tokens: float
    too_long: float
    cached_tokens: int
    drafted_tokens: int
    accepted_tokens: int
    rollout_seconds: float
    reward_seconds: float
    handover_seconds: float
    turns: float | None = None
    tool_calls: int | None = None
    tool_errors: int | None = None


@dataclass(frozen=True)
class UpdateMetrics:
    """One optimizer step on a round's answers. loss: what was minimised. ratio_*: exp(new - rollout) over learnt
    tokens; exactly 1 where the update is on-policy. exact_ratios: share of the tokens whose ratio is 1. clipped:
    share of the tokens that a limit stopped. kl: estimate (k3), nats, weighted as the loss, of leaving the first model;
    None where it is not asked for. rollout_kl: estimate (k3), nats a token, of KL(rollout || new), what drew the tokens
    beside what is trained; exactly 0 where every ratio is 1. entropy: mean of the distribution that is sampled from,
    nats a token. seconds: of the update. routes_known, routes_replaced: where experts are replayed, the share of
    choices (of a row in a mixture) that the engine told, and of those that the router would have made otherwise."""

    step: int
    round: int
    tokens: int
    loss: float
    ratio_min: float
    ratio_mean: float
    ratio_max: float
    exact_ratios: float
    clipped: float
    entropy: float
    kl: float | None
    seconds: float
    rollout_kl: float | None = None
    routes_known: float | None = None
    routes_replaced: float | None = None


@dataclass(frozen=True)
class HeldoutReward:
    """Mean reward on tasks that are never trained on, after `step` steps; low and high: 95% of bootstrap means over
    tasks."""

    step: int
    reward: float
    low: float
    high: float
    tasks: int
    samples: int


def tool_metrics(samples: Sequence[Sample]) -> dict[str, Any]:
    """What `RoundMetrics` has of tools; nothing of answers without."""
    turns = [turn for sample in samples for turn in sample.turns]
    if not turns:
        return {}
    return {
        "turns": len(turns) / len(samples),
        "tool_calls": sum(len(turn.results) for turn in turns),
        "tool_errors": sum(turn.num_errors for turn in turns),
    }
