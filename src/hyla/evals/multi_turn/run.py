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
from hyla.engine.fingerprint import weights_digest
from hyla.engine.requests.messages import Completion, Request
from hyla.errors import ConfigError, RequestError
from hyla.evals.multi_turn.forms import Form, form_of
from hyla.evals.multi_turn.score import Said, said
from hyla.evals.multi_turn.script import Kind, Plan, Turn, script
from hyla.json_files import read_json
from hyla.models.config import Config, Count
from hyla.train.files import append_lines, kept_lines, replace_json

FORMAT = 1
EVAL_FILE, ITEMS_FILE = "eval.json", "items.jsonl"


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
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the draws."""


@dataclass(frozen=True)
class Answer:
    """A turn's question and what was answered. tokens, cached_tokens: of its prompt, all that was said so far."""

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
        self._params = SamplingParams(temperature=0.0, max_tokens=request.answer_tokens, stop=self.form.stop)
        self._scripts = dict(self._written(tokenizer, words))
        self._check_lengths()
        self._begin(words)
        self.done = {line.key: line for line in map(Conversation.read, kept_lines(folder / ITEMS_FILE))}

    def _written(self, tokenizer: Tokenizer, words: Sequence[str]) -> Iterator[tuple[tuple[int, int], list[Turn]]]:
        request = self.request
        plan = Plan(request.facts, request.hops, request.filler_tokens)

        def count(text: str) -> int:
            return len(tokenizer.encode(text, add_special_tokens=False))

        for turns in request.turns:
            for number in range(request.samples):
                yield (turns, number), script(turns, number, request.seed, plan, words, count)

    def _check_lengths(self) -> None:
        for (turns, number), said_in in self._scripts.items():
            prompts = len(self.form.first(said_in[0])) + sum(len(self.form.later(turn)) for turn in said_in[1:])
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
            "weights": weights_digest(self.engine.model),
        }
        file = self.folder / EVAL_FILE
        if not file.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            replace_json(file, record)
            return
        found = read_json(file)
        changed = [name for name in record if found.get(name) != record[name]]
        if changed:
            raise ConfigError(
                f"{self.folder} has results of another {' and '.join(changed)}; choose another --out, or delete it"
            )

    def run(self, on_item: Callable[[Conversation], None] = lambda line: None) -> list[Conversation]:
        """Have every conversation that was not had yet; all of them, in the order of turns and numbers."""
        missing = [key for key in self._scripts if key not in self.done]
        running = {}
        waiting = [_Open(key, self._scripts[key], self.form.first(self._scripts[key][0])) for key in missing]

        def more(is_idle: bool) -> list:
            running.update({one.name: one for one in waiting})
            found = [self.engine.resolve(Request(one.name, tuple(one.ids), self._params)) for one in waiting]
            waiting.clear()
            return found

        for completions in self.engine.finished([], more):
            for completion in completions:
                one = running.pop(completion.request_id)
                self._answered(one, completion)
                if len(one.answers) < len(one.turns):
                    waiting.append(one)
                    continue
                turns, number = one.key
                line = Conversation(turns, number, one.answers)
                append_lines(self.folder / ITEMS_FILE, [asdict(line)])
                self.done[line.key] = line
                on_item(line)
        return [self.done[key] for key in self._scripts]

    def _answered(self, one: _Open, done: Completion) -> None:
        """Take an answer, and what the user says next."""
        if done.finish_reason not in ("stop", "length"):
            why = f"{done.finish_reason} ({done.error})" if done.error else done.finish_reason
            raise RequestError(f"the answer of {one.name} ended with {why}; give the same command again: it goes on")
        question, answer, usage = one.turns[len(one.answers)].question, done.text or "", done.usage
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
                len(done.token_ids),
            )
        )
        one.ids += self.form.closed(done.token_ids, done.finish_reason == "stop")
        if len(one.answers) < len(one.turns):
            one.ids += self.form.later(one.turns[len(one.answers)])
