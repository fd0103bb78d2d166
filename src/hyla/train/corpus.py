"""A folder of text as documents, and which of them are held out."""

from __future__ import annotations

import hashlib
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from hyla.data.records import text_files
from hyla.errors import ConfigError

MAX_FILE_BYTES = 4_000_000
"""Longer files are skipped: one of them would be most of a small corpus."""

STDLIB_SKIPPED = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings", "pydoc_data", "ensurepip"}
)
"""Folders of the standard library that are left out: not part of it, absent on some systems, or generated tables."""


@dataclass(frozen=True)
class Document:
    """One file: its path inside the folder (POSIX separators) and its text."""

    name: str
    text: str

    @property
    def data(self) -> bytes:
        return self.text.encode("utf-8")


@dataclass(frozen=True)
class Corpus:
    """Documents of training and, apart from them, held-out ones; both sorted by name."""

    folder: str
    train: tuple[Document, ...]
    heldout: tuple[Document, ...]

    @property
    def fingerprint(self) -> str:
        """Names and contents as one hash: equal fingerprints train equal models."""
        digest = hashlib.sha256()
        for part in (self.train, self.heldout):
            for document in part:
                digest.update(hashlib.sha256(document.name.encode()).digest())
                digest.update(hashlib.sha256(document.data).digest())
            digest.update(b"|")
        return digest.hexdigest()[:16]


def stdlib_folder() -> Path:
    """Where this Python keeps the source of its standard library."""
    return Path(sysconfig.get_path("stdlib"))


def read_text(path: Path) -> str | None:
    """The file's text, or None when it is empty, very long, or not UTF-8 text."""
    if path.stat().st_size > MAX_FILE_BYTES:
        return None
    data = path.read_bytes()
    if b"\0" in data:
        return None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return text if text.strip() else None


def is_heldout(name: str, share: float) -> bool:
    """Whether a document is held out. Depends on its name alone, so adding files moves no other file."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") < share * 2**64


def read_corpus(folder: Path | None = None, *, heldout_share: float = 0.05) -> Corpus:
    """Read a folder of text, or the Python standard library's source when folder is None.

    heldout_share: expected share of files, in (0, 1), that training never sees.
    Raises ConfigError when the folder is missing or has fewer than two usable files.
    """
    is_stdlib = folder is None
    root = stdlib_folder() if folder is None else Path(folder)
    if not root.is_dir():
        raise ConfigError(f"data folder {root} does not exist; give a folder that holds text files")
    paths = text_files(root, skipped=STDLIB_SKIPPED, suffix=".py") if is_stdlib else text_files(root)
    texts = ((path, read_text(path)) for path in paths)
    documents = [Document(path.relative_to(root).as_posix(), text) for path, text in texts if text is not None]
    if len(documents) < 2:
        raise ConfigError(
            f"data folder {root} holds {len(documents)} readable UTF-8 text files; training needs two or more "
            f"(files above {MAX_FILE_BYTES:,} bytes, hidden files and binary files are skipped)"
        )
    heldout = [document for document in documents if is_heldout(document.name, heldout_share)]
    if not heldout or len(heldout) == len(documents):
        heldout = [min(documents, key=lambda document: hashlib.sha256(document.name.encode()).digest())]
    names = {document.name for document in heldout}
    train = tuple(document for document in documents if document.name not in names)
    return Corpus(str(root), train, tuple(heldout))
