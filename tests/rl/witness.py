"""Watches a run of reinforcement learning where its engine and its trainer work, and compares what is on the disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from tiny_rl import finished, lines_of

import hyla.rl.policy
from hyla.engine.fingerprint import weights_digest
from hyla.engine.runner import Runner
from hyla.rl.config import RLRequest
from hyla.rl.handover import HandOver
from hyla.rl.metrics import UpdateMetrics
from hyla.rl.samples import RoundFile, Sample


@dataclass
class Witness:
    """What happened in a run, in its order."""

    folder: Path
    widths: set[int] = field(default_factory=set)
    """How many sequences the engine's steps had."""
    digests: list[str] = field(default_factory=list)
    """Of the engine's weights after each hand-over."""
    num_tokens: int = 0
    """Stored log-probabilities that were compared with the trainer's."""
    different: list[tuple[int, int]] = field(default_factory=list)
    """(step, tokens whose stored log-probability is another number than the trainer's), where there are any."""
    _new: list[torch.Tensor] = field(default_factory=list)

    def compare(self, line: UpdateMetrics) -> None:
        """The log-probabilities that the trainer computed for an update, with those that the round's file has."""
        stored = torch.tensor([value for one in stored_samples(self.folder, line.round) for value in one.logprobs])
        new = torch.cat(self._new)
        self._new.clear()
        assert stored.shape == new.shape and stored.dtype == new.dtype == torch.float32
        # As the policy's gradient has it: in float64, so that not even the last bit can hide.
        count = int((torch.exp(new.double() - stored.double()) != 1.0).sum())
        assert (count == 0) == torch.equal(new, stored)
        self.num_tokens += len(stored)
        if count:
            self.different.append((line.step, count))


def stored_samples(run: Path, number: int) -> list[Sample]:
    """A round's judged answers as the disk has them, in the order of the update."""
    found = RoundFile(run / "rollouts" / f"round-{number:06d}.jsonl").read()
    return [found[key] for key in sorted(found) if found[key].reward is not None]


@contextmanager
def watched(folder: Path) -> Iterator[Witness]:
    """While this lasts, one run in `folder`. Nothing that it computes is changed."""
    seen, step, hand_over = Witness(folder), Runner.step, HandOver.__call__
    trained = hyla.rl.policy.token_logprobs_and_entropy

    def watched_step(self, parts):
        seen.widths.add(len(parts))
        return step(self, parts)

    def watched_hand_over(self):
        hand_over(self)
        seen.digests.append(weights_digest(self.engine.model))

    def watched_trained(*args, **named):
        found = trained(*args, **named)
        assert found[0].requires_grad
        seen._new.append(found[0].detach().clone())
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Runner, "step", watched_step)
        patch.setattr(HandOver, "__call__", watched_hand_over)
        patch.setattr(hyla.rl.policy, "token_logprobs_and_entropy", watched_trained)
        yield seen


def witnessed(folder: Path, request: RLRequest, tell: Callable[[str], None] = lambda line: None) -> Witness:
    """A whole run in `folder`; one update a round, no group left out."""
    assert request.rl.policy.updates_per_round == 1 and not request.rl.policy.drop_equal_groups
    with watched(folder) as seen:

        def on_update(line: UpdateMetrics) -> None:
            seen.compare(line)
            if line.step % 10 == 0:
                tell(f"step {line.step}: {seen.num_tokens} tokens, differing {seen.different}, widths {seen.widths}")

        finished(folder, request, on_update=on_update)
    return seen


def assert_on_policy(seen: Witness, request: RLRequest) -> dict[str, int]:
    """Every ratio of every update was exactly 1, and everything that could have spoilt it happened; the counts."""
    steps, rounds, updates = request.train.steps, lines_of(seen.folder, "rounds"), lines_of(seen.folder, "updates")
    assert request.rl.rollout.temperature == 0.7
    assert seen.different == [], "stored log-probabilities are different from the trainer's"
    assert len(rounds) == len(updates) == steps
    for line in updates:
        assert (line["ratio_min"], line["ratio_mean"], line["ratio_max"], line["exact_ratios"]) == (1.0, 1.0, 1.0, 1.0)
    assert sum(line["tokens"] for line in updates) == seen.num_tokens > 0
    assert all(line["cached_tokens"] > 0 and line["left_out"] == 0 for line in rounds)
    drafted, accepted = (sum(line[f"{kind}_tokens"] for line in rounds) for kind in ("drafted", "accepted"))
    assert drafted > accepted > 0
    assert len(seen.widths) > 1, "batches of several sizes"
    assert len(set(seen.digests)) == len(seen.digests) == steps, "every update changed the weights"
    cached = sum(line["cached_tokens"] for line in rounds)
    return {"tokens": seen.num_tokens, "cached": cached, "drafted": drafted, "accepted": accepted}
