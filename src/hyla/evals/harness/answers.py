"""What lm-evaluation-harness asks of a model, answered by the engine. Nothing here needs the harness.

An answer has the same bits alone and among others, whatever the prefix cache holds, and is asked for once: answers are
kept in a file as they come.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from hyla.checkpoints import Tokenizer
from hyla.engine import Engine, SamplingParams
from hyla.engine.requests.messages import Completion, Request
from hyla.errors import ConfigError, RequestError
from hyla.evals.asking import completed
from hyla.evals.costs import item_flops
from hyla.models.config import ModelConfig
from hyla.train.files import append_lines, kept_lines

ANSWERS_FILE = "answers.jsonl"
Pair = tuple[Sequence[int], Sequence[int]]
"""Token ids of a context, and of what is scored after it."""


@dataclass(frozen=True)
class Answer:
    """A line of answers.jsonl. key: of the prompt's ids and how it is continued or scored. logprob: the natural log of
    the probability of what is scored; is_greedy: whether each of its tokens was the likeliest. text: of a continuation.
    The rest is what it took, as `evals.costs.Spent` has it."""

    key: str
    tokens: int
    cached_tokens: int
    answer_tokens: int
    seconds: float
    flops: float
    logprob: float | None = None
    is_greedy: bool | None = None
    text: str | None = None

    @property
    def likelihood(self) -> tuple[float, bool]:
        """(logprob, is_greedy) of what was scored."""
        assert self.logprob is not None and self.is_greedy is not None
        return self.logprob, self.is_greedy


class Watcher(Protocol):
    """Who is told how it goes."""

    def begin(self, total: int, done: int) -> None:
        """So many answers are wanted; so many of them are there."""
        ...

    def item(self) -> None:
        """One more is there."""
        ...

    def step(self) -> None:
        """The engine goes on."""
        ...


class Nobody:
    """Watches nothing."""

    def begin(self, total: int, done: int) -> None: ...

    def item(self) -> None: ...

    def step(self) -> None: ...


@dataclass(frozen=True)
class _Job:
    """A prompt for the engine. shared: its first tokens, that others may have as well; num_scored: its last ones."""

    key: str
    ids: tuple[int, ...]
    params: SamplingParams
    shared: tuple[int, ...]
    num_scored: int = 0


class Answers:
    """Answers of one engine, those of earlier runs in a folder included.

    truncates: a context that is too long loses its beginning (not a first bos token), as with the harness's other
    models; otherwise it is refused. folder: where answers.jsonl is; None: nothing is kept.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        *,
        truncates: bool = False,
        folder: Path | None = None,
        watcher: Watcher | None = None,
    ):
        self.engine, self.tokenizer, self.truncates = engine, tokenizer, truncates
        self.watcher = watcher or Nobody()
        self.num_truncated = 0
        """Contexts that lost their beginning."""
        self._file = None if folder is None else folder / ANSWERS_FILE
        lines = [] if self._file is None else kept_lines(self._file)
        self.known = {answer.key: answer for answer in (Answer(**json.loads(line)) for line in lines)}

    @property
    def max_length(self) -> int:
        """Tokens of a context with what is scored or written after it."""
        return self.engine.context_len

    @property
    def prefix_id(self) -> int:
        """What stands before a text without a context: the bos token, else the end of text. Raises ConfigError."""
        for token in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, *self.engine.eos_ids):
            if token is not None:
                return token
        raise ConfigError("this tokenizer has neither bos_token nor eos_token; add one to its tokenizer_config.json")

    def encode(self, text: str, *, adds_special: bool = True) -> list[int]:
        """A text as the tokenizer puts it, with the bos token if it adds one, and never with a second one: a text of a
        chat template begins with its own."""
        bos = self.tokenizer.special.get("bos_token")
        begun = bos is not None and text.startswith(bos)
        return self.tokenizer.encode(text, add_special_tokens=adds_special and not begun)

    def log_likelihoods(self, pairs: Sequence[Pair]) -> list[Answer]:
        """Of each continuation after its context. Raises RequestError for a pair over `max_length`."""
        return self._answered([self._scoring(context, rest) for context, rest in pairs])

    def rolling(self, text: str) -> list[Pair]:
        """A whole text as pairs whose log-probabilities add up to its own: windows as the harness cuts them. The first
        begins with `prefix_id`, and no other token is added."""
        return list(windows(self.encode(text, adds_special=False), self.prefix_id, self.max_length - 1))

    def continuations(self, asked: Sequence[tuple[str, SamplingParams]]) -> list[Answer]:
        """Continued texts. What is asked twice is drawn twice where anything is drawn.

        Raises RequestError for a context that leaves no room for `max_tokens`.
        """
        jobs, times = [], Counter[str]()
        for text, params in asked:
            ids = self._fitted(self.encode(text), params.chosen_max_tokens, "to write")
            if params.temperature > 0:
                first = _key(ids, params)
                params = params.model_copy(update={"seed": params.chosen_seed + times[first]})
                times[first] += 1
            jobs.append(_Job(_key(ids, params), ids, params, ids))
        return self._answered(jobs)

    def _scoring(self, context: Sequence[int], rest: Sequence[int]) -> _Job:
        fitted = self._fitted(context, len(rest), "to score")
        ids = (*fitted, *rest)
        params = SamplingParams(
            max_tokens=0, temperature=0.0, prompt_logprobs=0, prompt_logprobs_start=len(fitted), seed=0
        )
        return _Job(_key(ids, params), ids, params, fitted, len(rest))

    def _fitted(self, context: Sequence[int], more: int, purpose: str) -> tuple[int, ...]:
        """A context that leaves room for so many tokens."""
        room = self.max_length - more
        if len(context) <= room:
            return tuple(context)
        if not self.truncates or room < 2:
            raise RequestError(
                f"a context of {len(context):,} tokens with {more:,} {purpose} is over the model's context of "
                f"{self.max_length:,}; ask for fewer examples or tokens, or cut contexts off at their beginning "
                "(--truncate, truncates=True), as the harness's other models do"
            )
        self.num_truncated += 1
        begins = tuple(context[:1]) if context[0] == self.tokenizer.bos_token_id else ()
        return (*begins, *context[len(context) - room + len(begins) :])

    def _answered(self, jobs: Sequence[_Job]) -> list[Answer]:
        keys = {job.key for job in jobs}
        wanted = {job.key: job for job in jobs if job.key not in self.known}
        self.watcher.begin(len(keys), len(keys) - len(wanted))
        for done in _computed(self.engine, list(wanted.values()), self.watcher):
            if self._file is not None:
                append_lines(self._file, map(asdict, done))
            self.known |= {answer.key: answer for answer in done}
        return [self.known[job.key] for job in jobs]


def _key(ids: Sequence[int], params: SamplingParams) -> str:
    told = json.dumps([list(ids), params.model_dump(mode="json", exclude_defaults=True)])
    return hashlib.sha256(told.encode()).hexdigest()[:32]


def windows(ids: Sequence[int], prefix: int, most: int) -> Iterator[Pair]:
    """Pairs of (context, scored), of at most `most` tokens to be read, in which every id is scored once: the first
    after `prefix`, later ones after the id before them, and the last ones after as many as there is room for
    (lm_eval.utils.get_rolling_token_windows and make_disjoint_window, with a context of 1).

    >>> list(windows(range(10), 99, 4))
    [([99], [0, 1, 2, 3]), ([3], [4, 5, 6, 7]), ([5, 6, 7], [8, 9])]
    """
    ids = list(ids)
    for first in range(0, len(ids), most):
        scored = ids[first : first + most]
        before = max(0, first + len(scored) - most - 1)
        yield ([prefix] if first == 0 else ids[before:first]), scored


def _computed(engine: Engine, jobs: Sequence[_Job], watcher: Watcher) -> Iterator[list[Answer]]:
    """Answers as they come. Of prompts with the same beginning one goes first, so that others find it in the cache."""
    together: dict[tuple[int, ...], deque[_Job]] = {}
    for job in sorted(jobs, key=lambda job: -len(job.ids)):
        together.setdefault(job.shared, deque()).append(job)
    queue = deque(own.popleft() for own in together.values())

    def following() -> tuple[_Job, Request] | None:
        if not queue:
            return None
        job = queue.popleft()
        ends = (max(len(job.shared) - 1, 0),) if together[job.shared] else ()
        return job, Request(job.key, job.ids, job.params, snapshot_at=ends)

    for done, seconds in completed(engine, following, watcher.step):
        yield [_answer(job, completion, engine.model.config, seconds) for job, completion in done]
        for job, _ in done:
            queue.extendleft(reversed(together[job.shared]))
            together[job.shared].clear()
            watcher.item()


def _answer(job: _Job, completion: Completion, config: ModelConfig, seconds: float) -> Answer:
    usage = completion.usage
    took = (len(job.ids), usage.cached_tokens, usage.completion_tokens, seconds)
    flops = item_flops(config, *took[:3], num_scored=job.num_scored)
    if job.params.max_tokens != 0:
        return Answer(job.key, *took, flops, text=completion.text or "")
    scored = (completion.prompt_logprobs or ())[len(job.shared) :]
    found = [one for one in scored if one is not None]
    if len(found) != job.num_scored:
        raise RequestError(f"{len(found)} of {job.num_scored} tokens have a log-probability")
    logprob = math.fsum(one.logprob for one in found)
    return Answer(job.key, *took, flops, logprob, all(one.rank == 1 for one in found))
