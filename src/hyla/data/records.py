"""Files as records, text or conversations, in pieces that can be read apart from each other."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hyla.errors import ConfigError

PIECE_BYTES = 32 << 20
"""Of input that is read and encoded at once, about: what a killed build loses, and what a worker holds."""
MOST_RECORD_BYTES = 64 << 20
"""A longer record is damaged: it would fill a worker's memory."""
JSON_LINES, PARQUET = (".jsonl", ".ndjson"), (".parquet",)
TEMPLATE_NAMES = "chat_template_kwargs"
"""Key of a conversation for what its chat template is given besides, as servers and other trainers call it."""
RESERVED = frozenset({"self", "messages", "tools", "documents", "add_generation_prompt"})
"""Names that a template has from elsewhere."""

Kind = Literal["text", "json_lines", "parquet"]


@dataclass(frozen=True)
class Record:
    """One document, before it is encoded."""

    place: str
    """Where it was found: a file, and the byte or row in it."""
    text: str | None = None
    messages: list[dict] | None = None
    """A conversation instead of a text; content and roles as chat templates take them."""
    tools: list[dict] | None = None
    template_names: dict[str, Any] | None = None
    """What the client gives the chat template besides (`chat_template_kwargs`); None: nothing."""


@dataclass(frozen=True)
class Damaged:
    """A record that cannot be used, and why."""

    place: str
    reason: str


@dataclass(frozen=True)
class Part:
    """A file, or the records of it that begin in [first, last): bytes of lines, row groups of a table."""

    file: str
    first: int
    last: int


@dataclass(frozen=True)
class Piece:
    """What is read together."""

    kind: Kind
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Fields:
    """Which keys of a JSON line or columns of a table are read."""

    text: str = "text"
    messages: str = "messages"
    tools: str = "tools"
    is_chat: bool = False
    """Read conversations instead of texts."""


def kind_of(file: Path) -> Kind:
    """By its suffix; whatever else a file is called, it is a text."""
    suffix = file.suffix.lower()
    return "json_lines" if suffix in JSON_LINES else "parquet" if suffix in PARQUET else "text"


def input_files(paths: Sequence[Path]) -> list[Path]:
    """The files, and all files of the folders but hidden ones and links, each path's sorted by name.

    Raises ConfigError for a path that does not exist, and where there is no file.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += text_files(path)
        elif path.is_file():
            found.append(path)
        else:
            raise ConfigError(f"{path} does not exist or is no file; name files or folders of text, .jsonl or .parquet")
    if not found:
        raise ConfigError(f"there is no file in {', '.join(map(str, paths))}; name files or folders that hold some")
    return found


def text_files(folder: Path, *, skipped: frozenset[str] = frozenset(), suffix: str = "") -> Iterator[Path]:
    """Regular files below folder in sorted order, without hidden ones, caches, links and the `skipped` folders."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith(".") or entry.name in skipped or entry.name == "__pycache__":
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from text_files(Path(entry.path), skipped=skipped, suffix=suffix)
        elif entry.is_file(follow_symlinks=False) and entry.name.endswith(suffix):
            yield Path(entry.path)


def pieces_of(files: Sequence[Path], piece_bytes: int = PIECE_BYTES) -> list[Piece]:
    """Cut the files, in their order, into pieces of about `piece_bytes`. The cut depends on their sizes alone."""
    pieces: list[Piece] = []
    texts: list[Part] = []
    held = 0
    for file in files:
        size, kind = file.stat().st_size, kind_of(file)
        if kind != "text" or held + size > piece_bytes:
            pieces += [Piece("text", tuple(texts))] if texts else []
            texts, held = [], 0
        if kind == "text":
            texts.append(Part(str(file), 0, size))
            held += size
        elif kind == "json_lines":
            ends = [*range(piece_bytes, size, piece_bytes), size]
            pieces += [Piece(kind, (Part(str(file), first, last),)) for first, last in zip([0, *ends], ends)]
        else:
            pieces += [Piece(kind, (Part(str(file), first, last),)) for first, last in _row_groups(file, piece_bytes)]
    return pieces + ([Piece("text", tuple(texts))] if texts else [])


def read_piece(piece: Piece, fields: Fields) -> Iterator[Record | Damaged]:
    """The piece's records in their order. Raises ConfigError for a file that cannot be read at all."""
    for part in piece.parts:
        try:
            if piece.kind == "text":
                yield _text_record(part)
            else:
                rows = _json_rows(part) if piece.kind == "json_lines" else _table_rows(part, fields)
                for place, row in rows:
                    yield row if isinstance(row, Damaged) else _record(place, row, fields)
        except OSError as error:
            raise ConfigError(f"{part.file} cannot be read: {error.strerror or error}") from error


def _text_record(part: Part) -> Record | Damaged:
    if part.last > MOST_RECORD_BYTES:
        return Damaged(part.file, f"longer than {MOST_RECORD_BYTES:,} bytes; cut it, or give it as .jsonl")
    data = Path(part.file).read_bytes()
    if b"\0" in data:
        return Damaged(part.file, "binary, not text")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return Damaged(part.file, f"not UTF-8: byte {error.start}")
    return Record(part.file, text) if text.strip() else Damaged(part.file, "empty")


def _json_rows(part: Part) -> Iterator[tuple[str, Any]]:
    """(place, value) of the lines that begin inside the part; a line over its end belongs to it."""
    with open(part.file, "rb") as file:
        if part.first:
            # A line that begins exactly at `first` is this part's: so one byte before it is read as well.
            file.seek(part.first - 1)
            _skip_line(file)
        while (start := file.tell()) < part.last:
            place, line = f"{part.file}, byte {start}", file.readline(MOST_RECORD_BYTES + 1)
            if len(line) > MOST_RECORD_BYTES:
                if not line.endswith(b"\n"):
                    _skip_line(file)
                yield place, Damaged(place, f"a line of more than {MOST_RECORD_BYTES:,} bytes")
            elif line.strip():
                yield place, _parsed(place, line)


def _skip_line(file) -> None:
    while (line := file.readline(1 << 20)) and not line.endswith(b"\n"):
        pass


def _parsed(place: str, line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        return Damaged(place, f"no JSON: {reason}")


def _parquet_file(path: str | Path):
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigError("parquet files need pyarrow; install it with: pip install 'hyla[data]'") from None
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise ConfigError(f"{path} is no parquet file that can be read: {error}") from None


def _row_groups(file: Path, piece_bytes: int) -> list[tuple[int, int]]:
    """[first, last) row groups of about so many bytes, one at least."""
    metadata = _parquet_file(file).metadata
    spans, first, held = [], 0, 0
    for group in range(metadata.num_row_groups):
        held += metadata.row_group(group).total_byte_size
        if held >= piece_bytes or group == metadata.num_row_groups - 1:
            spans.append((first, group + 1))
            first, held = group + 1, 0
    return spans


def _table_rows(part: Part, fields: Fields) -> Iterator[tuple[str, Any]]:
    file = _parquet_file(part.file)
    wanted = (fields.messages, fields.tools, TEMPLATE_NAMES) if fields.is_chat else (fields.text,)
    columns = [name for name in wanted if name in file.schema_arrow.names]
    if wanted[0] not in columns:
        names = ", ".join(file.schema_arrow.names)
        raise ConfigError(f"{part.file} has no column {wanted[0]!r}; it has {names}; name one of them")
    for group in range(part.first, part.last):
        try:
            rows = file.read_row_group(group, columns=columns).to_pylist()
        except Exception as error:  # pyarrow raises many kinds for damaged pages
            place = f"{part.file}, row group {group}"
            yield place, Damaged(place, f"cannot be read: {error}")
            continue
        for number, row in enumerate(rows):
            yield f"{part.file}, row {number} of group {group}", row


def _record(place: str, row: Any, fields: Fields) -> Record | Damaged:
    if not isinstance(row, dict):
        return Damaged(place, f"a JSON {type(row).__name__}, not an object")
    key = fields.messages if fields.is_chat else fields.text
    value = row.get(key)
    if fields.is_chat:
        problem = _wrong_messages(value)
        if problem is not None:
            return Damaged(place, f"{key}: {problem}")
        tools = row.get(fields.tools)
        if tools is not None and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
            return Damaged(place, f"{fields.tools}: not a list of objects")
        names = row.get(TEMPLATE_NAMES)
        if names is not None and not (isinstance(names, dict) and not RESERVED & names.keys()):
            return Damaged(place, f"{TEMPLATE_NAMES}: not an object, or with one of {', '.join(sorted(RESERVED))}")
        if names is not None:  # tables fill up what a row lacks
            names = {name: own for name, own in names.items() if own is not None}
        return Record(place, messages=value, tools=tools or None, template_names=names)
    if not isinstance(value, str):
        found = "missing" if key not in row else f"a {type(value).__name__}"
        return Damaged(place, f"{key} is {found}; it must be a text")
    return Record(place, value) if value.strip() else Damaged(place, f"{key} is empty")


def are_messages(value: Any) -> bool:
    """Whether a value is a list of messages, each with a role; an empty one is."""
    return isinstance(value, list) and all(isinstance(message, dict) and "role" in message for message in value)


def _wrong_messages(value: Any) -> str | None:
    """Why a value is no conversation that can be learnt from; None: it is one."""
    if not isinstance(value, list) or not value:
        return "missing or not a list of messages"
    for number, message in enumerate(value):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            return f"message {number} has no role"
        if not isinstance(message.get("content"), str | list) and not message.get("tool_calls"):
            return f"message {number} has no content"
    return None if any(message["role"] == "assistant" for message in value) else "no message of the assistant"
