"""A round of answers: sampled by the engine, judged, and kept as they come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from hyla.engine import Engine, Request, SamplingParams
from hyla.engine.requests.messages import Completion
from hyla.rl.config import RolloutConfig
from hyla.rl.conversations import OUT_OF_TURNS, Conversations
from hyla.rl.engine_process import RolloutProcess, check_versions
from hyla.rl.places import Place, drawn_logprobs, seed_of
from hyla.rl.rewards import Judgement, Rewards
from hyla.rl.rewards.messages import asked
from hyla.rl.samples import RoundFile, Sample
from hyla.rl.tasks import Task, round_tasks
from hyla.rl.tools.between import Between
from hyla.rl.tools.tools import Tools
from hyla.rl.turns import TurnFile

FINISHED = ("stop", "length", OUT_OF_TURNS)
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
        self.conversations: Conversations | None = None

    def use_tools(self, tools: Tools, between: Between, context_len: int) -> None:
        """Answers may have several turns from now on."""
        self.conversations = Conversations(tools, between, self.config, context_len, self._finished)

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
        order = self.order.of(number)
        places = [Place(key, self.tasks[order[key[0]]], (self.seed, number, *key)) for key in keys]
        drawn = {"temperature": self.config.temperature, "logprobs": 0, "sampled_logprobs": True}
        params = SamplingParams(**drawn, router_choices=self.records_routes)
        return self._drawn(places, params, TurnFile(self.file(number).path.with_suffix(".turns")))

    def _drawn(
        self, places: Sequence[Place], params: SamplingParams, file: TurnFile | None = None
    ) -> Iterator[list[Sample]]:
        """Answers as they are finished. params: of every one, without seed and length. file: where their turns are kept
        until then."""
        if self.conversations is not None:
            yield from self.conversations.samples(places, params, file)
            return
        requests, by_name = [], {}
        for place in places:
            own = {"max_tokens": self.config.max_tokens, "seed": seed_of(*place.seed)}
            by_name[place.name] = place
            requests.append(Request(place.name, place.task.prompt_ids, params.model_copy(update=own)))
        for done in self._finished(requests):
            yield [_sample(by_name[one.request_id], one, params) for one in done]

    def _finished(
        self, requests: Sequence[Request], more: Callable[[bool], Sequence[Request]] = lambda is_idle: ()
    ) -> Iterator[list[Completion]]:
        resolved = [self.engine.resolve(request) for request in requests]
        for done in self.engine.finished(resolved, lambda is_idle: [self.engine.resolve(own) for own in more(is_idle)]):
            check_versions(done, self.engine)
            yield done

    def _judged(self, samples: Sequence[Sample]) -> Iterable[list[Sample]]:
        """In pieces, so that a killed process keeps most of what was asked."""
        for first in range(0, len(samples), JUDGED_AT_ONCE):
            piece = samples[first : first + JUDGED_AT_ONCE]
            whole = [sample for sample in piece if sample.finish_reason in FINISHED]
            found = self._judgements(whole, [self.tasks[sample.task] for sample in whole])
            by_key = {sample.key: judgement for sample, judgement in zip(whole, found)}
            yield [
                replace(sample, reward=by_key[sample.key].reward, problem=by_key[sample.key].problem)
                if sample.key in by_key
                else replace(sample, problem=f"the engine ended it: {sample.finish_reason}")
                for sample in piece
            ]

    def _judgements(self, samples: Sequence[Sample], tasks: Sequence[Task]) -> list[Judgement]:
        answers = [(sample.text, task.row) for sample, task in zip(samples, tasks)]
        messages = [sample.conversation(asked(task.row)) for sample, task in zip(samples, tasks)]
        return self.rewards.of(answers, messages)

    def heldout(self, tasks: Sequence[Task], samples: int, temperature: float) -> list[list[float]]:
        """Rewards of answers to tasks that are not trained on, by task; answers without a reward count as 0."""
        keys = [(place, member) for place in range(len(tasks)) for member in range(samples)]
        places = [Place(key, tasks[key[0]], (self.seed, -1, *key)) for key in keys]
        with self.shares.timed("rollout"):
            drawn = self._drawn(places, SamplingParams(temperature=temperature))
            done = {one.key: one for part in drawn for one in part}
        with self.shares.timed("reward"):
            judged = self._judgements([done[key] for key in keys], [place.task for place in places])
        found = [judgement.reward or 0.0 for judgement in judged]
        return [found[first : first + samples] for first in range(0, len(found), samples)]


JUDGED_AT_ONCE = 256


def _sample(place: Place, done: Completion, params: SamplingParams) -> Sample:
    return Sample(
        *place.key,
        task=place.task.number,
        prompt_ids=place.task.prompt_ids,
        token_ids=done.token_ids,
        logprobs=drawn_logprobs(done, params),
        text=done.text or "",
        finish_reason=done.finish_reason,
        cached_tokens=done.usage.cached_tokens,
        drafted_tokens=done.usage.drafted_tokens,
        accepted_tokens=done.usage.accepted_tokens,
        routes=None if done.router_choices is None else done.router_choices.text,
    )
