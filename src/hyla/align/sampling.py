"""Log-probabilities as the engine gives them: with prefix cache, drafts, and batches of many sizes, as it serves."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from hyla.align.config import AlignConfig
from hyla.engine import Completion, Engine, Request, SamplingParams
from hyla.engine.requests.collect import Collector
from hyla.errors import HylaError, RequestError
from hyla.rl.places import seed_of
from hyla.rl.rollouts import FINISHED
from hyla.rl.samples import Sample

DRAFTING = {"speculation": "lookup", "fixed_drafts": True, "max_draft_tokens": 4}
SERVING = {"max_num_sequences": 6, "prefill_chunk": 50, **DRAFTING}
"""Options of the engine: few places, so that requests wait, and pieces that do not fit the grid."""
READING = {"max_num_sequences": 1, "prefix_cache": False}
"""For a text."""
STEPS_APART = 3
"""Steps from one late arrival to the next."""


@dataclass(frozen=True)
class Happened:
    """What of all that must not change a number did happen."""

    cached_tokens: int
    drafted_tokens: int
    accepted_tokens: int
    batch_sizes: dict[int, int]
    """Steps by the number of sequences that they computed."""
    recorded_steps: int
    """Steps that were replayed from a recording (`EngineOptions.record_steps`)."""

    @property
    def missing(self) -> list[str]:
        """What did not, and why that can be."""
        found = []
        if not self.cached_tokens:
            found.append("no token came from the prefix cache (texts are shorter than 64 tokens)")
        if not self.accepted_tokens:
            found.append("no draft was accepted (nothing in the texts repeats)")
        if self.accepted_tokens == self.drafted_tokens:
            found.append("no draft was rejected")
        if len(self.batch_sizes) < 2:
            found.append("all steps had one batch size")
        return found


@dataclass(frozen=True)
class Answers:
    """What an engine said. group: the prompt's number; member: the turn."""

    samples: list[Sample]
    failed: list[str] = field(default_factory=list)
    """Answers that the engine ended with an error, with the reason."""
    happened: Happened | None = None


def name_of(sample: Sample) -> str:
    """The request's name."""
    return f"{sample.group}-{sample.member}"


class Sampling:
    """Answers to prompts, in turns. The same for the same engine, prompts and config."""

    def __init__(self, engine: Engine, prompts: Sequence[tuple[int, ...]], config: AlignConfig):
        self.engine, self.config = engine, config
        self._waiting = [self._request(number, 0, ids) for number, ids in enumerate(prompts)]
        self._collectors: dict[str, Collector] = {}
        self._places: dict[str, tuple[int, int]] = {}
        self._sizes: Counter[int] = Counter()
        self._found: list[Completion] = []

    def answers(self) -> Answers:
        """All of them, by prompt and turn."""
        for request in self._waiting[: len(self._waiting) // 2]:
            self._add(request)
        late, step = self._waiting[len(self._waiting) // 2 :], 0
        while late or self.engine.has_work:
            if late and (step % STEPS_APART == STEPS_APART - 1 or not self.engine.has_work):
                self._add(late.pop(0))
            late += self._step()
            step += 1
        samples = sorted((self._sample(done) for done in self._found if not _failed(done)), key=lambda one: one.key)
        failed = [f"{done.request_id}: {done.error or done.finish_reason}" for done in self._found if _failed(done)]
        return Answers(samples, failed, self._happened(samples))

    def _step(self) -> list[Request]:
        """One step; the requests that go on from answers which have ended in it."""
        following = []
        for event in self.engine.step():
            collector = self._collectors[event.request_id]
            collector.add(event)
            if event.finish_reason is not None:
                (done,) = collector.completions()
                self._found.append(done)
                following += [] if _failed(done) else self._next(done, collector.request.prompt_ids)
        running = len(self.engine.scheduler.running)
        self._sizes[running] += running > 0
        return following

    def _next(self, done: Completion, prompt: tuple[int, ...]) -> list[Request]:
        """The next turn, if there is one and it fits: without the token that ended the answer."""
        number, turn = self._places[done.request_id]
        written = done.token_ids[:-1] if done.finish_reason == "stop" else done.token_ids
        ids = (*prompt, *written)
        fits = len(ids) + self.config.max_tokens <= self.engine.context_len
        return [self._request(number, turn + 1, ids)] if turn + 1 < self.config.turns and fits else []

    def _request(self, number: int, turn: int, ids: tuple[int, ...]) -> Request:
        params = SamplingParams(
            max_tokens=self.config.max_tokens,
            temperature=self.config.temperature,
            seed=seed_of(self.config.seed, number, turn),
            logprobs=0,
            sampled_logprobs=True,
        )
        return Request(f"{number}-{turn}", ids, params)

    def _add(self, request: Request) -> None:
        number, turn = request.request_id.split("-")
        self._places[request.request_id] = int(number), int(turn)
        self._collectors[request.request_id] = Collector(self.engine.add(request))

    def _sample(self, done: Completion) -> Sample:
        number, turn = self._places[done.request_id]
        prompt = self._collectors[done.request_id].request.prompt_ids
        return sample_of(number, turn, prompt, done.token_ids, done.logprobs or (), done)

    def _happened(self, samples: Sequence[Sample]) -> Happened:
        return Happened(
            cached_tokens=sum(sample.cached_tokens for sample in samples),
            drafted_tokens=sum(sample.drafted_tokens for sample in samples),
            accepted_tokens=sum(sample.accepted_tokens for sample in samples),
            batch_sizes=dict(sorted((size, steps) for size, steps in self._sizes.items() if steps)),
            recorded_steps=self.engine.status()["recorded_steps"]["replayed"],
        )


def _failed(done: Completion) -> bool:
    return done.finish_reason not in FINISHED


def sample_of(number: int, turn: int, prompt, token_ids, logprobs, done: Completion) -> Sample:
    """Tokens with what they were drawn with."""
    values = tuple(one.sampled for one in logprobs)
    if None in values or len(values) != len(token_ids):
        raise HylaError(f"answer {done.request_id} came without the log-probabilities of its tokens")
    usage = done.usage
    return Sample(
        group=number,
        member=turn,
        task=number,
        prompt_ids=tuple(prompt),
        token_ids=tuple(token_ids),
        logprobs=values,
        text=done.text or "",
        finish_reason=done.finish_reason,
        cached_tokens=usage.cached_tokens,
        drafted_tokens=usage.drafted_tokens,
        accepted_tokens=usage.accepted_tokens,
    )


def scored(engine: Engine, ids: Sequence[int], temperature: float) -> Answers:
    """A long text, read in pieces through the caches; all tokens but its first one as an answer that was given."""
    params = SamplingParams(max_tokens=0, prompt_logprobs=0, sampled_logprobs=True, temperature=temperature)
    request = engine.resolve(Request("0-0", tuple(ids), params))
    ((done,),) = engine.finished([request])
    if done.prompt_logprobs is None or _failed(done):
        return Answers([], [f"the text: {done.error or done.finish_reason}"])
    logprobs = [one for one in done.prompt_logprobs[1:] if one is not None]
    return Answers([sample_of(0, 0, ids[:1], ids[1:], logprobs, done)])


@dataclass(frozen=True)
class Greedy:
    """The likeliest continuation of each prompt, and how fast they came."""

    texts: list[tuple[int, ...]]
    tokens_per_second: float
    """Of processor time, all threads together: what else the machine does hardly changes it."""


def greedy(engine: Engine, prompts: Sequence[tuple[int, ...]], max_tokens: int) -> Greedy:
    """Raises RequestError where the engine fails on one."""
    params = SamplingParams(max_tokens=max_tokens, temperature=0.0)
    started = time.process_time()
    done = engine.generate([list(ids) for ids in prompts], params)
    seconds = time.process_time() - started
    for one in done:
        if _failed(one):
            raise RequestError(f"a greedy answer ended with {one.finish_reason}: {one.error}")
    texts = [one.token_ids for one in done]
    return Greedy(texts, sum(map(len, texts)) / seconds)
