"""Files that hold one JSON object, with errors that name the file. No PyTorch."""

from __future__ import annotations

import json
from pathlib import Path

from hyla.errors import CheckpointError
from hyla.whole_files import read_whole, write_whole

MOST_BYTES = 16 << 20
"""Of a file of settings. One may take fifty times its size when it is read."""


def read_json(file: Path, most_bytes: int = MOST_BYTES) -> dict:
    """The object in a JSON file, with or without a byte order mark.

    Raises CheckpointError for one that is missing, unreadable, no file, larger than `most_bytes`, no JSON or no object.
    """
    try:
        value = json.loads(read_whole(file, most_bytes).decode("utf-8-sig"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{file.parent} has no {file.name}; give a folder in the Hugging Face format") from error
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}; fetch or save it again") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not valid JSON: {_reason(error)}; fetch or save it again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} holds a JSON {type(value).__name__}; it must be an object")
    return value


def _reason(error: Exception) -> str:
    """What json's errors mean for a file."""
    if isinstance(error, RecursionError):
        return "its lists and objects stand too deep in one another"
    if isinstance(error, json.JSONDecodeError | UnicodeError):
        return str(error)
    return "it has an integer of thousands of digits"


def write_json(file: Path, value: dict) -> None:
    """An object as an indented JSON file, whole or not at all. Raises OSError."""
    write_whole(file, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
