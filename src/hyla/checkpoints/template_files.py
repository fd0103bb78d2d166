"""Where a folder keeps its chat templates, as transformers reads and writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from os.path import lexists
from pathlib import Path
from typing import Any

from hyla.checkpoints.chat_template import DEFAULT, MOST_SOURCE_CHARS
from hyla.errors import CheckpointError
from hyla.json_files import read_json
from hyla.whole_files import read_whole, write_whole

FILE, FOLDER = "chat_template.jinja", "additional_chat_templates"
MOST_BYTES = 4 * MOST_SOURCE_CHARS
OLD_FILE = "chat_template.json"
"""What processors of several modalities had before."""


def read_templates(folder: Path, settings: dict[str, Any]) -> dict[str, str]:
    """Templates by name, none where there are none.

    Files come first (chat_template.jinja, and others in additional_chat_templates), then the key `chat_template` of
    tokenizer_config.json (a text, or named ones), which is taken out of `settings`, then chat_template.json.
    Raises CheckpointError for what is no template.
    """
    stored = settings.pop("chat_template", None)
    if found := _files(folder):
        return found
    place = folder / "tokenizer_config.json"
    if stored is None and lexists(folder / OLD_FILE):
        place = folder / OLD_FILE
        stored = read_json(place).get("chat_template")
    return _named(stored, place)


def _files(folder: Path) -> dict[str, str]:
    files = {file.stem: file for file in sorted((folder / FOLDER).glob("*.jinja"))}
    if lexists(folder / FILE):  # a link to nowhere is a broken template, not none
        files = {DEFAULT: folder / FILE, **files}
    return {name: _text(file) for name, file in files.items()}


def _text(file: Path) -> str:
    try:
        text = read_whole(file, MOST_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise CheckpointError(f"{file} cannot be read: {reason}; fetch it again, or remove it") from error
    if len(text) > MOST_SOURCE_CHARS:
        raise CheckpointError(f"{file} has more than {MOST_SOURCE_CHARS:,} characters; it is no chat template")
    return text


def _named(stored: Any, place: Path) -> dict[str, str]:
    """The key's value: a text, a list of {name, template}, or texts by name."""
    if stored is None:
        return {}
    if isinstance(stored, str):
        return {DEFAULT: stored}
    pairs = stored.items() if isinstance(stored, Mapping) else None
    if isinstance(stored, list) and all(isinstance(entry, Mapping) for entry in stored):
        pairs = [(entry.get("name"), entry.get("template")) for entry in stored]
    if pairs is None or not all(isinstance(name, str) and isinstance(text, str) for name, text in pairs):
        shown = json.dumps(stored, ensure_ascii=False)[:80]
        raise CheckpointError(
            f"{place}: chat_template = {shown} is neither a text nor a list of {{name, template}}; repair or remove it"
        )
    return dict(pairs)


def write_templates(folder: Path, sources: Mapping[str, str]) -> None:
    """Write them into an existing folder, where `read_templates` finds them. Raises OSError."""
    for name, text in sources.items():
        file = folder / FILE if name == DEFAULT else folder / FOLDER / f"{name}.jinja"
        file.parent.mkdir(exist_ok=True)
        write_whole(file, text)
