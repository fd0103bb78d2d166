"""Running text and lists of words from what is on the machine."""

from __future__ import annotations

import random
import re
from pathlib import Path

from hyla.data.records import text_files
from hyla.errors import ConfigError
from hyla.evals.long_context.task import Source
from hyla.evals.long_context.words import keys

WORD = re.compile(r"[a-z]{3,}")
ORDER_SEED = 42


def source_of(texts: Path | None) -> Source:
    """Of a folder's text files in the order of their names, or a file; None: Python's reference, which comes with it
    (some 65,000 words of English, 430 kB, in Python 3.11). Raises ConfigError for a folder without text."""
    return source_of_text(_reference() if texts is None else _read(texts))


def source_of_text(text: str) -> Source:
    """Words of a list are those of three small letters or more, in an order that is drawn once."""
    words = sorted(set(WORD.findall(text)))
    random.Random(ORDER_SEED).shuffle(words)
    return Source(re.sub(r"\s+", " ", text).strip().split(" "), words, keys())


def _reference() -> str:
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))


def _text(file: Path) -> str | None:
    """None: it is empty, or no UTF-8 text."""
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None
    return text if text.strip() and "\0" not in text else None


def _read(place: Path) -> str:
    if not place.exists():
        raise ConfigError(f"{place} does not exist; give a text file or a folder of such")
    files = [place] if place.is_file() else text_files(place)
    text = "\n".join(found for file in files if (found := _text(file)) is not None)
    if not text:
        raise ConfigError(f"{place} has no text in UTF-8; give a text file or a folder of such")
    return text
