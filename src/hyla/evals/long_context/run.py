"""Long contexts through the engine: every item is kept as it comes, and none is computed twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from hyla.checkpoints import Tokenizer
from hyla.engine import Engine, SamplingParams
from hyla.engine.fingerprint import weights_digest
from hyla.engine.requests.messages import Completion, Request
from hyla.errors import ConfigError
from hyla.evals.long_context.items import Item, Items
from hyla.evals.long_context.kinds import KINDS
from hyla.evals.long_context.task import Source, share_right
from hyla.json_files import read_json
from hyla.models.config import Config, Count
from hyla.train.files import append_lines, kept_lines, replace_json

FORMAT = 1
EVAL_FILE, ITEMS_FILE = "eval.json", "items.jsonl"


class LongContextRequest(Config):
    """What is asked: so many items of each kind and length."""

    kinds: Annotated[tuple[str, ...], Field(min_length=1)] = ("niah_single_2",)
    """Names of `KINDS`."""
    lengths: Annotated[tuple[Count, ...], Field(min_length=1)] = (4096,)
    """Tokens of prompt and longest answer together."""
    samples: Count = 20
    """Items of each."""
    depths: Annotated[int, Field(ge=2)] | None = None
    """Kinds with one needle: item i has it at depth (i mod depths) / (depths - 1). None: depths are drawn."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the draws."""

    @field_validator("kinds")
    @classmethod
    def _are_known(cls, kinds):
        wrong = next((name for name in kinds if name not in KINDS), None)
        if wrong is not None:
            raise ValueError(f"{wrong!r} is none of {', '.join(KINDS)}")
        return kinds


@dataclass(frozen=True)
class Answered:
    """A line of items.jsonl. score: the share of what was wanted that stands in the answer."""

    kind: str
    length: int
    number: int
    depth: float | None
    tokens: int
    cached_tokens: int
    answer_tokens: int
    wanted: list[str]
    answer: str
    score: float

    @property
    def key(self) -> tuple[str, int, int]:
        return self.kind, self.length, self.number


class LongContexts:
    """An eval in a folder, begun or gone on with.

    Raises ConfigError for lengths over the model's context, and for a folder with results of another model, text,
    request or version.
    """

    def __init__(self, folder: Path, request: LongContextRequest, engine: Engine, tokenizer: Tokenizer, source: Source):
        self.folder, self.request, self.engine, self.source = folder, request, engine, source
        self._encode = tokenizer.encode
        too_long = max(request.lengths)
        if too_long > engine.context_len:
            raise ConfigError(
                f"a length of {too_long} tokens is over the model's context of {engine.context_len}; give shorter ones"
            )
        self._begin()
        self.answered = {line.key: line for line in self._read()}

    def _begin(self) -> None:
        record = {
            "format": FORMAT,
            "request": self.request.model_dump(mode="json"),
            "text": hashlib.sha256(" ".join(self.source.essay).encode()).hexdigest()[:16],
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

    def _read(self) -> list[Answered]:
        return [Answered(**json.loads(line)) for line in kept_lines(self.folder / ITEMS_FILE)]

    def run(self, on_item: Callable[[Answered], None] = lambda line: None) -> list[Answered]:
        """Ask everything that is not answered yet; all lines, in the order of kinds, lengths and numbers."""
        for kind in self.request.kinds:
            for length in self.request.lengths:
                for line in self._asked(kind, length):
                    on_item(line)
        return [self.answered[key] for key in self._keys()]

    def _keys(self) -> list[tuple[str, int, int]]:
        request = self.request
        return [(k, n, i) for k in request.kinds for n in request.lengths for i in range(request.samples)]

    def _asked(self, kind: str, length: int) -> Iterator[Answered]:
        missing = [i for i in range(self.request.samples) if (kind, length, i) not in self.answered]
        if not missing:
            return
        made = Items(
            KINDS[kind],
            length,
            self.source,
            self._encode,
            self.request.seed,
            self.request.depths,
        )
        items = [made.item(number) for number in missing]
        params = SamplingParams(temperature=0.0, max_tokens=KINDS[kind].max_tokens)
        by_name = {f"{kind} {length} {item.number}": item for item in items}
        requests = [Request(name, tuple(item.prompt_ids), params) for name, item in by_name.items()]
        for done in self.engine.finished([self.engine.resolve(request) for request in requests]):
            lines = [answered(by_name[one.request_id], one) for one in done]
            self._keep(lines)
            yield from lines

    def _keep(self, lines: Sequence[Answered]) -> None:
        append_lines(self.folder / ITEMS_FILE, map(asdict, lines))
        self.answered |= {line.key: line for line in lines}


def answered(item: Item, completion: Completion) -> Answered:
    """A finished item."""
    answer = completion.text or ""
    return Answered(
        item.kind,
        item.length,
        item.number,
        item.question.depth,
        item.tokens,
        completion.usage.cached_tokens,
        len(completion.token_ids),
        list(item.question.answers),
        answer,
        share_right(answer, item.question.answers),
    )
