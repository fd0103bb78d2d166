"""Items of a length: as long a context as fits, drawn by (kind, length, number) alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from hyla.errors import ConfigError
from hyla.evals.long_context.needles import Needles
from hyla.evals.long_context.task import Kind, Question, Source

Encode = Callable[[str], Sequence]
"""The tokens of a text, with whatever a prompt begins with."""


@dataclass(frozen=True)
class Item:
    """One question. prompt_ids: its prompt; with the longest answer at most `length` tokens."""

    kind: str
    length: int
    number: int
    prompt_ids: Sequence
    question: Question

    @property
    def tokens(self) -> int:
        return len(self.prompt_ids)


class Items:
    """Items of one kind and length."""

    def __init__(
        self, kind: Kind, length: int, source: Source, encode: Encode, seed: int = 0, depths: int | None = None
    ):
        """depths: item i has its only needle at depth (i mod depths) / (depths - 1); None: depths are drawn. Raises
        ConfigError where not even the shortest context fits, or the source is too small for one."""
        self._depths = depths if isinstance(kind, Needles) and kind.least == 1 else None
        self.kind, self.length, self.source, self.seed, self._encode = kind, length, source, seed, encode
        most = kind.most(source)
        if most is not None and most < kind.least:
            raise ConfigError(f"{kind.name} needs a text of {kind.least} different words or more; it has {most}")
        self._units = self._longest(most)

    def item(self, number: int) -> Item:
        """A function of kind, length, seed, source and number: as long as the first one, or shorter where that does not
        fit."""
        units = self._units
        while True:
            question = self._asked(units, number)
            prompt_ids = self._encode(question.prompt)
            if self._has_room(prompt_ids):
                return Item(self.kind.name, self.length, number, prompt_ids, question)
            if units <= self.kind.least:
                raise self._too_short(len(prompt_ids))
            units = max(self.kind.least, units - self.kind.step(self.length))

    def _asked(self, units: int, number: int) -> Question:
        draw, kind = random.Random(f"{self.kind.name} {self.length} {self.seed} {number}"), self.kind
        if self._depths is not None:
            assert isinstance(kind, Needles)
            kind = replace(kind, depth=number % self._depths / (self._depths - 1))
        return kind.ask(units, self.length, self.source, draw)

    def _fits(self, units: int) -> bool:
        return self._has_room(self._encode(self._asked(units, 0).prompt))

    def _has_room(self, prompt_ids: Sequence) -> bool:
        return len(prompt_ids) + self.kind.max_tokens <= self.length

    def _longest(self, most: int | None) -> int:
        """Most units with which the first item fits, in steps: doubled until it does not, then halved between."""
        least, step = self.kind.least, self.kind.step(self.length)
        if not self._fits(least):
            raise self._too_short(len(self._encode(self._asked(least, 0).prompt)))
        limit = None if most is None else (most - least) // step
        below, above = 0, 1
        while (limit is None or above <= limit) and self._fits(least + above * step):
            below, above = above, 2 * above
        if limit is not None:
            above = min(above, limit + 1)
        while above - below > 1:
            middle = (below + above) // 2
            below, above = (middle, above) if self._fits(least + middle * step) else (below, middle)
        return least + below * step

    def _too_short(self, tokens: int) -> ConfigError:
        return ConfigError(
            f"{self.kind.name} does not fit {self.length} tokens: its shortest prompt has {tokens}, its answer up to "
            f"{self.kind.max_tokens}; give a greater length"
        )
