"""A round of answers: sampled by the engine, judged, and kept as they come."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from hyla.engine import Engine, Request, SamplingParams
from hyla.engine.requests.messages import Completion
from hyla.errors import HylaError
from hyla.rl.config import RolloutConfig
from hyla.rl.engine_process import RolloutProcess, check_versions
from hyla.rl.rewards import Rewards
from hyla.rl.samples import RoundFile, Sample
from hyla.rl.tasks import Task, round_tasks

FINISHED = ("stop", "length")
"""How an answer that can be judged ends."""


@dataclass
class Shares:
    """Seconds that were spent."""

    rollout: float = 0.0
    reward: float = 0.0
    handover: float = 0.0

    @contextmanager
    def timed(self, name: str):
        started = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, name, getattr(self, name) + time.perf_counter() - started)


def seed_of(*place: int) -> int:
    """Sampling noise of one answer: a function of (run's seed, round, task's place, answer's place)."""
    digest = hashlib.sha256(" ".join(map(str, place)).encode()).digest()
    return int.from_bytes(digest[:8], "big")


class Rollouts:
    """Rounds of one run. A round is a function of the weights that the engine has, (seed, round) and the config: how
    far an earlier process came with it changes nothing.
    """

    def __init__(
        self,
        engine: Engine | RolloutProcess,
        tasks: Sequence[Task],
        rewards: Rewards,
        config: RolloutConfig,
        *,
        seed: int,
        folder: Path,
        records_routes: bool = False,
    ):
        """records_routes: keep which experts the tokens of an answer went through."""
        self.engine, self.tasks, self.rewards, self.config = engine, tasks, rewards, config
        self.seed, self.folder, self.records_routes = seed, folder, records_routes
        self.order = round_tasks(len(tasks), config.tasks_per_round, seed)
        self.shares = Shares()

    def file(self, number: int) -> RoundFile:
        return RoundFile(self.folder / f"round-{number:06d}.jsonl")

    def is_complete(self, number: int) -> bool:
        """Whether every answer of a round is there, and judged."""
        found = self.file(number).read()
        return len(found) == self._size and all(sample.is_judged for sample in found.values())

    @property
    def _size(self) -> int:
        return self.config.tasks_per_round * self.config.group_size

    def round(self, number: int) -> list[list[Sample]]:
        """All answers of a round, by task: those that are there, and the others now, with the engine's weights."""
        file = self.file(number)
        found = file.read()
        missing = [key for key in self._keys() if key not in found]
        with self.shares.timed("rollout"):
            for samples in self.sampled(number, missing):
                file.add(samples)
                found |= {sample.key: sample for sample in samples}
        open_ones = [found[key] for key in self._keys() if not found[key].is_judged]
        with self.shares.timed("reward"):
            for judged in self._judged(open_ones):
                file.judge(judged)
                found |= {sample.key: sample for sample in judged}
        size = self.config.group_size
        return [[found[group, member] for member in range(size)] for group in range(self.config.tasks_per_round)]

    def _keys(self) -> list[tuple[int, int]]:
        return [(g, m) for g in range(self.config.tasks_per_round) for m in range(self.config.group_size)]

    def sampled(self, number: int, keys: Sequence[tuple[int, int]]) -> Iterable[list[Sample]]:
        """The answers of a round that (group, member) name, as they are finished. Who draws them elsewhere overrides
        this, and gives the log-probabilities that they were drawn with."""
        order, config = self.order.of(number), self.config
        requests, places = [], {}
        for group, member in keys:
            params = SamplingParams(
                max_tokens=config.max_tokens,
                temperature=config.temperature,
                seed=seed_of(self.seed, number, group, member),
                logprobs=0,
                sampled_logprobs=True,
                router_choices=self.records_routes,
            )
            name = f"{number}-{group}-{member}"
            places[name] = (group, member, self.tasks[order[group]])
            requests.append(Request(name, places[name][2].prompt_ids, params))
        for done in self._finished(requests):
            samples = []
            for one in done:
                group, member, task = places[one.request_id]
                samples.append(_sample(group, member, task, one))
            yield samples

    def _finished(self, requests: Sequence[Request]) -> Iterator[list[Completion]]:
        for done in self.engine.finished([self.engine.resolve(request) for request in requests]):
            check_versions(done, self.engine)
            yield done

    def _judged(self, samples: Sequence[Sample]) -> Iterable[list[Sample]]:
        """In pieces, so that a killed process keeps most of what was asked."""
        for first in range(0, len(samples), JUDGED_AT_ONCE):
            piece = samples[first : first + JUDGED_AT_ONCE]
            asked = [sample for sample in piece if sample.finish_reason in FINISHED]
            found = self.rewards.of([(sample.text, self.tasks[sample.task].row) for sample in asked])
            by_key = {sample.key: judgement for sample, judgement in zip(asked, found)}
            yield [
                replace(sample, reward=by_key[sample.key].reward, problem=by_key[sample.key].problem)
                if sample.key in by_key
                else replace(sample, problem=f"the engine ended it: {sample.finish_reason}")
                for sample in piece
            ]

    def heldout(self, tasks: Sequence[Task], samples: int, temperature: float) -> list[list[float]]:
        """Rewards of answers to tasks that are not trained on, by task; answers without a reward count as 0."""
        requests = []
        for place, task in enumerate(tasks):
            for member in range(samples):
                params = SamplingParams(
                    max_tokens=self.config.max_tokens,
                    temperature=temperature,
                    seed=seed_of(self.seed, -1, place, member),
                )
                requests.append(Request(f"held-out-{place}-{member}", task.prompt_ids, params))
        with self.shares.timed("rollout"):
            done = {one.request_id: one for part in self._finished(requests) for one in part}
        texts = [(done[request.request_id].text or "", tasks[n // samples].row) for n, request in enumerate(requests)]
        with self.shares.timed("reward"):
            found = [judgement.reward or 0.0 for judgement in self.rewards.of(texts)]
        return [found[first : first + samples] for first in range(0, len(found), samples)]


JUDGED_AT_ONCE = 256


def _sample(group: int, member: int, task: Task, done: Completion) -> Sample:
    logprobs = tuple(one.sampled for one in done.logprobs or ())
    if None in logprobs or len(logprobs) != len(done.token_ids):
        raise HylaError(f"answer {done.request_id} came without the log-probabilities of its tokens")
    return Sample(
        group=group,
        member=member,
        task=task.number,
        prompt_ids=task.prompt_ids,
        token_ids=done.token_ids,
        logprobs=tuple(value for value in logprobs if value is not None),
        text=done.text or "",
        finish_reason=done.finish_reason,
        cached_tokens=done.usage.cached_tokens,
        drafted_tokens=done.usage.drafted_tokens,
        accepted_tokens=done.usage.accepted_tokens,
        routes=None if done.router_choices is None else done.router_choices.text,
    )
