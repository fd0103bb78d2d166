"""Common words: which ones stand most often in a long list?"""

from __future__ import annotations

import math
import random
import string
from dataclasses import dataclass

from hyla.evals.long_context.task import Question, Source

COMMON = 10
COMMON_TEMPLATE = (
    "Below is a numbered list of words. In these words, some appear more often than others. Memorize the ones that "
    "appear most often.\n{context}\nQuestion: What are the 10 most common words in the above list?"
)
COMMON_BEGUN = "Answer: The top 10 words that appear most often in the list are:"
CODED_TEMPLATE = (
    "Read the following coded text and track the frequency of each coded word. Find the three most frequently appeared "
    "coded words. {context}\nQuestion: Do not provide any explanation. Please ignore the dots '....'. What are the "
    "three most frequently appeared words in the above coded text?"
)
CODED_BEGUN = "Answer: According to the coded text above, the three most frequently appeared words are:"
CODED_LETTERS = 6
CODED_SEED = 42
"""Of the order of the coded words, as in the harness: only the words differ from item to item."""


@dataclass(frozen=True)
class CommonWords:
    """RULER's CWE task as lm-evaluation-harness asks it (0.4.13, tasks/ruler/cwe_utils.py; without the solved example,
    which its prompt leaves out): ten words stand 30 times each (6 times below 4,096 tokens), all others 3 times
    (once). Units: different words.
    """

    name: str = "ruler_cwe"
    max_tokens: int = 120

    @property
    def least(self) -> int:
        return COMMON + 1

    def step(self, length: int) -> int:
        return 10 if length >= 4096 else 2

    def most(self, source: Source) -> int | None:
        return len(source.words)

    def ask(self, units: int, length: int, source: Source, draw: random.Random) -> Question:
        times, other_times = (30, 3) if length >= 4096 else (6, 1)
        chosen = draw.sample(source.words, units)
        listed = chosen[:COMMON] * times + chosen[COMMON:] * other_times
        draw.shuffle(listed)
        context = " ".join(f"{number}. {word}" for number, word in enumerate(listed, start=1))
        prompt = f"{COMMON_TEMPLATE.format(context=context)}\n\n{COMMON_BEGUN}"
        return Question(prompt, tuple(chosen[:COMMON]), None)


@dataclass(frozen=True)
class CodedWords:
    """RULER's FWE task as lm-evaluation-harness asks it (0.4.13, tasks/ruler/fwe_utils.py): coded words whose counts
    fall with the square of their rank, the first of them dots. Units: words, before counts are rounded down.
    """

    name: str = "ruler_fwe"
    max_tokens: int = 50

    @property
    def least(self) -> int:
        # Rank 4 stands once at least.
        return math.ceil(16 * math.pi**2 / 6)

    def step(self, length: int) -> int:
        return max(1, length // 32)

    def most(self, source: Source) -> int | None:
        return None

    def ask(self, units: int, length: int, source: Source, draw: random.Random) -> Question:
        count, words = max(length // 50, 8), set()
        while len(words) < count:
            words.add("".join(draw.choices(string.ascii_lowercase, k=CODED_LETTERS)))
        ranked = sorted(words)
        random.Random(CODED_SEED).shuffle(ranked)
        ranked[0] = "..."
        times = [int(units * rank**-2.0 / (math.pi**2 / 6)) for rank in range(1, count + 1)]
        text = [word for word, number in zip(ranked, times) for _ in range(number)]
        random.Random(CODED_SEED).shuffle(text)
        prompt = f"{CODED_TEMPLATE.format(context=' '.join(text))} {CODED_BEGUN}"
        return Question(prompt, tuple(ranked[1:4]), None)
