"""Variable tracking: which names have a value, when most got it from one another?"""

from __future__ import annotations

import random
import string
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from hyla.evals.long_context.needles import FILLER
from hyla.evals.long_context.task import Question, Source

TEMPLATE = (
    "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n{context}\n"
    "Question: Find all variables that are assigned the value {value} in the text above."
)
BEGUN = (
    " Answer: According to the chain(s) of variable assignment in the text above, {count} variables are assgined the "
    "value {value}, they are:"
)
"""With the harness's misspelling."""
EXAMPLE_FILLERS = 10
LETTERS, EXAMPLE_LETTERS = 5, 3


@dataclass(frozen=True)
class Chains:
    """RULER's VT task as lm-evaluation-harness writes it (0.4.13, tasks/ruler/vt_utils.py): one chain of `hops` + 1
    variables among filler (units: filler sentences), after a solved example.

    The example has 10 filler sentences here, whatever the tokenizer; the harness fits it to 500 tokens.
    """

    name: str = "ruler_vt"
    hops: int = 4
    max_tokens: int = 30

    @property
    def least(self) -> int:
        return self.hops + 2

    def step(self, length: int) -> int:
        return 10 if length >= 4096 else 1

    def most(self, source: Source) -> int | None:
        return None

    def ask(self, units: int, length: int, source: Source, draw: random.Random) -> Question:
        example, its_names = self.written(EXAMPLE_FILLERS, EXAMPLE_LETTERS, draw)
        text, names = self.written(units, LETTERS, draw)
        depth = text.index(f"VAR {names[0]} =") / len(text)
        return Question(f"{example} {' '.join(its_names)}\n\n\n\n{text}", tuple(names), depth)

    def written(self, fillers: int, letters: int, draw: random.Random) -> tuple[str, Sequence[str]]:
        """(context, question and the answer's beginning, the names that are the answer)."""
        names = _names(self.hops + 1, letters, draw)
        value = str(draw.randrange(10_000, 99_999))
        chain = [f"VAR {names[0]} = {value}"]
        chain += [f"VAR {name} = VAR {before} " for before, name in pairwise(names)]
        text = [FILLER + "\n"] * fillers
        for number, place in enumerate(sorted(draw.sample(range(fillers), len(chain)))):
            text.insert(place + number, chain[number])
        context = " ".join(text).replace(". \n", ".\n")
        begun = BEGUN.format(count=len(names), value=value)
        return TEMPLATE.format(context=context, value=value) + begun, names


def _names(count: int, letters: int, draw: random.Random) -> list[str]:
    """Different names of so many capital letters."""
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(draw.choices(string.ascii_uppercase, k=letters))] = None
    return list(found)
