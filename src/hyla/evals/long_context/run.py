"""Long contexts through the engine: every item is kept as it comes, and none is computed twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from hyla.checkpoints import Tokenizer
from hyla.engine import Engine, SamplingParams
from hyla.engine.requests.messages import Completion, Request
from hyla.errors import ConfigError
from hyla.evals.asking import completed
from hyla.evals.costs import item_flops
from hyla.evals.long_context.items import Item, Items
from hyla.evals.long_context.kinds import KINDS
from hyla.evals.long_context.task import Source, share_right
from hyla.evals.results import ITEMS_FILE, begin, model_record
from hyla.models.config import Config, Count, ModelConfig
from hyla.train.files import append_lines, kept_lines

FORMAT = 2


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
    """A line of items.jsonl. score: the share of what was wanted that stands in the answer. seconds and flops: as
    `evals.costs.Spent` has them."""

    kind: str
    length: int
    number: int
    depth: float | None
    tokens: int
    cached_tokens: int
    answer_tokens: int
    seconds: float
    flops: float
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
            **model_record(self.engine.model),
        }
        begin(self.folder, record)

    def _read(self) -> list[Answered]:
        return [Answered(**json.loads(line)) for line in kept_lines(self.folder / ITEMS_FILE)]

    def run(
        self, on_item: Callable[[Answered], None] = lambda line: None, on_step: Callable[[], None] = lambda: None
    ) -> list[Answered]:
        """Ask everything that is not answered yet; all lines, in the order of kinds, lengths and numbers.

        on_step: called before each step of the engine. Raises RequestError for an item that the engine fails on, and
        CapacityError for one that its caches cannot hold.
        """
        for kind in self.request.kinds:
            for length in self.request.lengths:
                for line in self._asked(kind, length, on_step):
                    on_item(line)
        return [self.answered[key] for key in self._keys()]

    @property
    def num_items(self) -> int:
        """Of the whole request."""
        return len(self._keys())

    def _keys(self) -> list[tuple[str, int, int]]:
        request = self.request
        return [(k, n, i) for k in request.kinds for n in request.lengths for i in range(request.samples)]

    def _asked(self, kind: str, length: int, on_step: Callable[[], None]) -> Iterator[Answered]:
        missing = [i for i in range(self.request.samples) if (kind, length, i) not in self.answered]
        if not missing:
            return
        made = Items(KINDS[kind], length, self.source, self._encode, self.request.seed, self.request.depths)
        params = SamplingParams(temperature=0.0, max_tokens=KINDS[kind].max_tokens)
        items = map(made.item, missing)
        jobs = ((item, Request(f"{kind} {length} {item.number}", tuple(item.prompt_ids), params)) for item in items)
        for done, seconds in completed(self.engine, lambda: next(jobs, None), on_step):
            lines = [answered(item, completion, self.engine.model.config, seconds) for item, completion in done]
            append_lines(self.folder / ITEMS_FILE, map(asdict, lines))
            self.answered |= {line.key: line for line in lines}
            yield from lines


def answered(item: Item, completion: Completion, config: ModelConfig, seconds: float) -> Answered:
    """A finished item."""
    answer, usage = completion.text or "", completion.usage
    return Answered(
        item.kind,
        item.length,
        item.number,
        item.question.depth,
        item.tokens,
        usage.cached_tokens,
        usage.completion_tokens,
        seconds,
        item_flops(config, item.tokens, usage.cached_tokens, usage.completion_tokens),
        list(item.question.answers),
        answer,
        share_right(answer, item.question.answers),
    )
