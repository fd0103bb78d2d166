"""Needles in haystacks: a sentence says a magic value of a key, somewhere in a long text."""

from __future__ import annotations

import random
import re
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from hyla.evals.long_context.task import Question, Source

NEEDLE = "One of the special magic {kind} for {key} is: {value}."
FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
TEMPLATE = (
    "Some special magic {kind} are hidden within the following text. Make sure to memorize it. I will quiz you about "
    "the {kind} afterwards.\n{context}\n"
    "What are all the special magic {kind} for {query} mentioned in the provided text?"
)
ORDER_SEED = 42
"""Of the order of several needles, which is the same in every item: as in the harness."""
NUM_DEPTHS = 40
"""Depths from 0 to 100% at which needles of a running text stand."""

Values = Literal["numbers", "words", "uuids"]
Sentences = Callable[[str], Sequence[str]]


def sentences(text: str) -> list[str]:
    """Cut after a full stop, question or exclamation mark that a space follows."""
    return re.split(r"(?<=[.!?])\s+", text)


@dataclass(frozen=True)
class Needles:
    """RULER's NIAH tasks as lm-evaluation-harness writes them (0.4.13, tasks/ruler/prepare_niah.py).

    `num_keys` keys have `num_values` values each, one needle for each; `num_queries` of the keys are asked for.
    haystack: "repeat", one sentence again and again (units: sentences); "essay", a running text (units: words);
    "needle", needles of other keys (units: needles). Given equal draws and sources, prompts equal the harness's byte by
    byte; a running text that is too short begins again (as in RULER's own program), where the harness's prompts get no
    longer. depth: of the only needle, 0 to 1; None: drawn.
    """

    name: str
    haystack: Literal["repeat", "essay", "needle"]
    keys: Values = "words"
    values: Values = "numbers"
    num_keys: int = 1
    num_values: int = 1
    num_queries: int = 1
    depth: float | None = None
    cut: Sentences = sentences
    max_tokens: int = 128

    @property
    def least(self) -> int:
        return max(self.num_keys, self.num_queries) * self.num_values

    def step(self, length: int) -> int:
        if self.haystack == "essay":
            return 500 if length >= 4096 else 25
        return 25 if length >= 4096 else 5

    def most(self, source: Source) -> int | None:
        return None

    def ask(self, units: int, length: int, source: Source, draw: random.Random) -> Question:
        keys, values, needles = [], [], []
        for _ in range(max(self.num_keys, self.num_queries)):
            keys.append(_drawn(self.keys, source, draw))
            values.append([])
            for _ in range(self.num_values):
                values[-1].append(_drawn(self.values, source, draw))
                needles.append(NEEDLE.format(kind=self.values, key=keys[-1], value=values[-1][-1]))
        random.Random(ORDER_SEED).shuffle(needles)
        if self.haystack == "essay":
            words = source.essay
            context = self._in_text(needles, (list(words) * -(-units // len(words)))[:units], draw)
        else:
            context = self._among_sentences(needles, units, source, draw)
        asked = draw.sample(range(len(keys)), self.num_queries)
        queries, answers = [keys[i] for i in asked], [value for i in asked for value in values[i]]
        first = NEEDLE.format(kind=self.values, key=queries[0], value=answers[0])
        return Question(self._prompt(context, queries), tuple(answers), context.index(first) / len(context))

    def _in_text(self, needles: Sequence[str], words: Sequence[str], draw: random.Random) -> str:
        text = self.cut(" ".join(words).strip())
        percents = [round(100 * place / (NUM_DEPTHS - 1)) for place in range(NUM_DEPTHS)]
        drawn = draw.sample(percents, len(needles))
        if self.depth is not None:
            drawn = [100 * self.depth] * len(needles)
        places = [0, *sorted(int(len(text) * (percent / 100)) for percent in drawn), len(text)]
        parts = []
        for number in range(1, len(places)):
            parts.append(" ".join(text[places[number - 1] : places[number]]))
            if number <= len(needles):
                parts.append(needles[number - 1])
        return " ".join(parts)

    def _among_sentences(self, needles: Sequence[str], units: int, source: Source, draw: random.Random) -> str:
        if self.haystack == "repeat":
            text = [FILLER] * units
        else:
            text = []
            for _ in range(units):
                key = _drawn(self.keys, source, draw)
                text.append(NEEDLE.format(kind=self.values, key=key, value=_drawn(self.values, source, draw)))
        places = sorted(draw.sample(range(units), len(needles)), reverse=True)
        if self.depth is not None:
            places = [int(units * self.depth)] * len(needles)
        for place, needle in zip(places, needles):
            text.insert(place, needle)
        return "\n".join(text)

    def _prompt(self, context: str, queries: Sequence[str]) -> str:
        query = ", ".join(queries[:-1]) + ", and " + queries[-1] if len(queries) > 1 else queries[0]
        is_one, template = len(queries) * self.num_values == 1, TEMPLATE
        if is_one:
            for plural, singular in (("Some", "A"), ("are all", "is"), ("are", "is"), ("answers", "answer")):
                template = template.replace(plural, singular)
        kind = self.values[:-1] if is_one else self.values
        text = template.format(kind=kind, context=context, query=query)
        begun = f"The special magic {kind} for {query} mentioned in the provided text"
        return f"{text} {begun} {'is' if is_one else 'are'}"


def _drawn(kind: Values, source: Source, draw: random.Random) -> str:
    if kind == "numbers":
        return str(draw.randint(10**6, 10**7 - 1))
    if kind == "words":
        return draw.choice(source.keys)
    return str(uuid.UUID(int=draw.getrandbits(128), version=4))
