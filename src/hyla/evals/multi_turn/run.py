"""Conversations through the engine: each is kept when it is over, and none is computed twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field

from hyla.checkpoints import Tokenizer
from hyla.engine import Engine, SamplingParams
from hyla.engine.requests.messages import Completion, Request
from hyla.engine.requests.resolving import Resolved
from hyla.errors import ConfigError, RequestError
from hyla.evals.costs import Stopwatch, item_flops
from hyla.evals.multi_turn.forms import Form, form_of
from hyla.evals.multi_turn.score import Said, said
from hyla.evals.multi_turn.script import Kind, Plan, Turn, script
from hyla.evals.results import ITEMS_FILE, begin, model_record
from hyla.models.config import Config, Count
from hyla.train.files import append_lines, kept_lines

FORMAT = 1


class MultiTurnRequest(Config):
    """What is asked: so many conversations of each number of turns."""

    turns: Annotated[tuple[Count, ...], Field(min_length=1)] = (2, 8)
    """Turns of a conversation; each ends with a question."""
    samples: Count = 20
    """Conversations of each."""
    facts: Count = 2
    """Statements of a turn."""
    hops: Annotated[int, Field(ge=0)] = 2
    """Most people from one who shares something to the one whose number it is."""
    filler_tokens: Annotated[int, Field(ge=0)] = 60
    """Most tokens of running text in a tool's result."""
    answer_tokens: Count = 24
    """Most tokens of an answer."""
    begin_answers: bool = False
    """Begin each answer, as "The number of Anna's locker is", and let the model say the rest: for models that do not
    answer to the point."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the draws."""


@dataclass(frozen=True)
class Answer:
    """A turn's question and what was answered, without reasoning. tokens, cached_tokens: of its prompt, all that was
    said so far. answer_tokens: all that were drawn. seconds and flops: as `evals.costs.Spent` has them. last: the
    number that was said last before the question; "": not recorded."""

    turn: int
    age: int
    kind: Kind
    question: str
    wanted: str
    answer: str
    said: Said
    tokens: int
    cached_tokens: int
    answer_tokens: int
    seconds: float
    flops: float
    last: str = ""

    @property
    def is_right(self) -> bool:
        return self.said == "right"


@dataclass(frozen=True)
class Conversation:
    """A line of items.jsonl: a conversation of so many turns, with its answers."""

    turns: int
    number: int
    answers: list[Answer]

    @property
    def key(self) -> tuple[int, int]:
        return self.turns, self.number

    @staticmethod
    def read(line: str) -> Conversation:
        found = json.loads(line)
        return Conversation(found["turns"], found["number"], [Answer(**answer) for answer in found["answers"]])


@dataclass
class _Open:
    """A conversation that goes on. ids: all that was said, up to where the next answer begins."""

    key: tuple[int, int]
    turns: list[Turn]
    ids: list[int]
    answers: list[Answer] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Of the request for the next answer."""
        return f"conversation {self.key[1]} of {self.key[0]} turns, turn {len(self.answers) + 1}"


class MultiTurn:
    """An eval in a folder, begun or gone on with.

    words: running text, for fillers. Raises ConfigError for conversations that with their longest answers are over the
    model's context, a chat template that cannot be continued, and a folder with results of another model, text, request
    or version.
    """

    def __init__(
        self, folder: Path, request: MultiTurnRequest, engine: Engine, tokenizer: Tokenizer, words: Sequence[str]
    ):
        self.folder, self.request, self.engine = folder, request, engine
        self.form: Form = form_of(tokenizer, engine.eos_ids)
        self._encode = tokenizer.encode
        self._params = SamplingParams(temperature=0.0, max_tokens=request.answer_tokens, stop=self.form.stop)
        self._scripts = dict(self._drawn(tokenizer, words))
        self._check_lengths()
        self._begin(words)
        self.done = {line.key: line for line in map(Conversation.read, kept_lines(folder / ITEMS_FILE))}

    def _drawn(self, tokenizer: Tokenizer, words: Sequence[str]) -> Iterator[tuple[tuple[int, int], list[Turn]]]:
        request = self.request
        plan = Plan(request.facts, request.hops, request.filler_tokens)

        def count(text: str) -> int:
            return len(tokenizer.encode(text, add_special_tokens=False))

        for turns in request.turns:
            for number in range(request.samples):
                yield (turns, number), script(turns, number, request.seed, plan, words, count)

    def _written(self, turn: Turn) -> list[int]:
        """What stands before a turn's answer and behind the one before."""
        ids = self.form.first(turn) if turn.question.turn == 1 else self.form.later(turn)
        if not self.request.begin_answers:
            return ids
        return ids + self._encode(self.form.gap + turn.question.begun, add_special_tokens=False)

    def _check_lengths(self) -> None:
        for (turns, number), said_in in self._scripts.items():
            prompts = sum(len(self._written(turn)) for turn in said_in)
            # An answer that is cut off gets an end token.
            tokens = prompts + turns * (self.request.answer_tokens + 1)
            if tokens > self.engine.context_len:
                raise ConfigError(
                    f"conversation {number} of {turns} turns has up to {tokens} tokens with its answers, over the "
                    f"model's context of {self.engine.context_len}; give fewer turns, filler_tokens or answer_tokens"
                )

    def _begin(self, words: Sequence[str]) -> None:
        record = {
            "format": FORMAT,
            "request": self.request.model_dump(mode="json"),
            "text": hashlib.sha256(" ".join(words).encode()).hexdigest()[:16],
            "form": self.form.name,
            **model_record(self.engine.model),
        }
        begin(self.folder, record)

    @property
    def num_items(self) -> int:
        """Conversations of the whole request."""
        return len(self._scripts)

    def run(
        self,
        on_item: Callable[[Conversation], None] = lambda line: None,
        on_step: Callable[[], None] = lambda: None,
    ) -> list[Conversation]:
        """Have every conversation that was not had yet; all of them, in the order of turns and numbers.

        on_step: called before each step of the engine. Raises RequestError for an answer that the engine fails on.
        """
        missing = [key for key in self._scripts if key not in self.done]
        waiting = [_Open(key, self._scripts[key], self._written(self._scripts[key][0])) for key in missing]
        running: dict[str, _Open] = {}
        watch = Stopwatch(self.engine.clock)

        def more(is_idle: bool) -> list[Resolved]:
            on_step()
            running.update({one.name: one for one in waiting})
            found = [self.engine.resolve(Request(one.name, tuple(one.ids), self._params)) for one in waiting]
            waiting.clear()
            return found

        for completions in self.engine.finished((), more):
            seconds = watch.lap() / len(completions)
            with watch.stopped():
                for completion in completions:
                    one = running.pop(completion.request_id)
                    self._answered(one, completion, seconds)
                    if len(one.answers) < len(one.turns):
                        waiting.append(one)
                    else:
                        on_item(self._kept(one))
        return [self.done[key] for key in self._scripts]

    def _kept(self, one: _Open) -> Conversation:
        """A conversation that is over, on the disk."""
        turns, number = one.key
        line = Conversation(turns, number, one.answers)
        append_lines(self.folder / ITEMS_FILE, [asdict(line)])
        self.done[line.key] = line
        return line

    def _answered(self, one: _Open, done: Completion, seconds: float) -> None:
        """Take an answer, and what the user says next."""
        if done.finish_reason not in ("stop", "length"):
            why = f"{done.finish_reason} ({done.error})" if done.error else done.finish_reason
            raise RequestError(f"the answer of {one.name} ended with {why}; give the same command again: it goes on")
        question, usage = one.turns[len(one.answers)].question, done.usage
        answer = self.form.text(one.ids, done.text or "")
        one.answers.append(
            Answer(
                question.turn,
                question.age,
                question.kind,
                question.text,
                question.wanted,
                answer,
                said(answer, question),
                usage.prompt_tokens,
                usage.cached_tokens,
                usage.completion_tokens,
                seconds,
                item_flops(self.engine.model.config, usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens),
                question.numbers[-1],
            )
        )
        one.ids += self.form.closed(done.token_ids, done.finish_reason == "stop")
        if len(one.answers) < len(one.turns):
            one.ids += self._written(one.turns[len(one.answers)])
