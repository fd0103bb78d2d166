"""Answers before they are drawn: where each stands in its round, and where its noise comes from."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from hyla.engine import SamplingParams
from hyla.engine.requests.messages import Completion
from hyla.errors import HylaError
from hyla.rl.tasks import Task


def seed_of(*place: int) -> int:
    """Sampling noise of one answer: a function of (run's seed, round, task's place, answer's place), and of the turn's
    number from the second turn on."""
    digest = hashlib.sha256(" ".join(map(str, place)).encode()).digest()
    return int.from_bytes(digest[:8], "big")


class Place(NamedTuple):
    """One answer that is to be drawn."""

    key: tuple[int, int]
    """Place of its task in the round, and its own among the task's answers."""
    task: Task
    seed: tuple[int, ...]
    """What `seed_of` takes: the run's seed, and what no other answer of the run has."""

    @property
    def name(self) -> str:
        """Of its request."""
        return "-".join(map(str, self.seed[1:]))


def drawn_logprobs(done: Completion, params: SamplingParams) -> tuple[float, ...]:
    """Of each token, nats, under what it was drawn from; none where params do not ask for them."""
    if not params.sampled_logprobs:
        return ()
    found = tuple(one.sampled for one in done.logprobs or () if one.sampled is not None)
    if len(found) != len(done.token_ids):
        raise HylaError(f"answer {done.request_id} came without the log-probabilities of its tokens")
    return found
