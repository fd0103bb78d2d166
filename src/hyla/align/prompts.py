"""What is answered: tasks, pieces of texts, or some prompts of our own, as token ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hyla.checkpoints import Tokenizer
from hyla.errors import ConfigError
from hyla.rl.tasks import read_tasks
from hyla.train.score_texts import read_texts

PIECE_TOKENS = 96
"""Of a prompt that is cut from a text: a page of cached keys and more."""
SHARED = (
    "A notebook about numbers, names and small programs. It was written a line a day, and nobody has read it since.\n"
)
OWN = (
    "The first page counts: one, two, three, four, one, two, three, four,",
    "def add(a, b):\n    return a + b\n\ndef sub(a, b):\n    return",
    "On Monday it rained. On Tuesday it rained. On Wednesday",
    "import os\nimport sys\n\nfor name in os.listdir(",
    "The capital of France is Paris; the capital of Italy is",
    "x = [1, 2, 3]\ny = [n * n for n in x]\nprint(",
    "Once there was a clock that ran backwards, and everybody said",
    "class Point:\n    def __init__(self, x, y):\n        self.x = x\n        self.",
)
"""They begin alike, so that a prefix cache has something to keep."""


def read_prompts(data: Sequence[Path], tokenizer: Tokenizer, count: int) -> list[tuple[int, ...]]:
    """`count` prompts; taken again from the first one on where there are fewer.

    data: one .jsonl file of tasks (`rl.tasks`), or files and folders of texts, from which pieces of 96 tokens are cut
    in equal distances; none: our own prompts. Raises ConfigError for what holds no prompt.
    """
    if not data:
        found = [tuple(tokenizer.encode(SHARED + text)) for text in OWN]
    elif any(path.suffix == ".jsonl" for path in data):
        if len(data) > 1:
            raise ConfigError(f"--data: {len(data)} paths, one of them .jsonl; give one file of tasks, or texts")
        found = [task.prompt_ids for task in read_tasks(data[0], tokenizer)]
    else:
        found = _pieces(data, tokenizer, count)
    return [found[place % len(found)] for place in range(count)]


def _pieces(data: Sequence[Path], tokenizer: Tokenizer, count: int) -> list[tuple[int, ...]]:
    ids = read_tokens(data, tokenizer, None)
    if len(ids) < PIECE_TOKENS:
        return [tuple(ids)]
    last = len(ids) - PIECE_TOKENS
    firsts = sorted({last * place // max(count - 1, 1) for place in range(count)})
    return [tuple(ids[first : first + PIECE_TOKENS]) for first in firsts]


def read_tokens(data: Sequence[Path], tokenizer: Tokenizer, length: int | None) -> list[int]:
    """The tokens of files and folders of texts, one text after the other; length: the first so many, None: all.

    Raises ConfigError for paths without a text, and for fewer tokens than that."""
    ids: list[int] = []
    for document in read_texts(list(data)).documents:
        if length is not None and len(ids) >= length:
            break
        ids += tokenizer.encode(document.text, add_special_tokens=not ids)
    if length is not None and len(ids) < length:
        raise ConfigError(f"{', '.join(map(str, data))}: {len(ids)} tokens; --length asks for {length}; give more text")
    return ids[:length]
