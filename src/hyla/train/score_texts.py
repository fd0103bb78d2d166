"""Files and folders as texts to score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hyla.data.records import text_files
from hyla.errors import ConfigError
from hyla.train.corpus import Document


@dataclass(frozen=True)
class Skipped:
    """A file that was left out, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Texts:
    """What was read, in the order of the arguments and sorted inside of each folder."""

    documents: tuple[Document, ...]
    skipped: tuple[Skipped, ...]


def read_texts(paths: Sequence[Path], limit: int | None = None) -> Texts:
    """Read files, and all files of folders but hidden ones, links and caches.

    limit: bytes in all; the last text is cut.
    Files that are empty or no UTF-8 text are left out, and told. Raises ConfigError for a path that is not there and
    when nothing is left.
    """
    documents, skipped, left = [], [], limit
    for path in _files(paths):
        if left is not None and left <= 0:
            break
        found = _read(path)
        if isinstance(found, Document) and left is not None:
            data = found.data
            found = Document(found.name, data[:left].decode("utf-8", errors="ignore"))
            left -= len(data)
        if isinstance(found, Skipped):
            skipped.append(found)
        elif found.text:
            documents.append(found)
    if not documents:
        named = ", ".join(f"{one.name} is {one.reason}" for one in skipped[:3])
        raise ConfigError(
            f"there is no text to score in {', '.join(map(str, paths))}"
            f"{f' ({named})' if named else ''}; name UTF-8 files, or folders that hold some"
        )
    return Texts(tuple(documents), tuple(skipped))


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.exists():
            raise ConfigError(f"{path} does not exist; name files or folders of text")
    for path in paths:
        yield from text_files(path) if path.is_dir() else [path]


def _read(path: Path) -> Document | Skipped:
    data = path.read_bytes()
    if not data.strip():
        return Skipped(str(path), "empty")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return Skipped(str(path), "not UTF-8 text")
    return Skipped(str(path), "binary") if "\0" in text else Document(str(path), text)
