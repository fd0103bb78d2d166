"""Files that hold one JSON object, with errors that name the file. No PyTorch."""

from __future__ import annotations

import json
from pathlib import Path

from hyla.errors import CheckpointError


def read_json(file: Path) -> dict:
    """The object in a JSON file. Raises CheckpointError for one that is missing, unreadable, no JSON or no object."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{file.parent} has no {file.name}; give a folder in the Hugging Face format") from error
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}; fetch or save it again") from error
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, or an integer of more digits than Python reads
        raise CheckpointError(f"{file} is not valid JSON: {error}; fetch or save it again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} holds a JSON {type(value).__name__}; it must be an object")
    return value


def write_json(file: Path, value: dict) -> None:
    """An object as an indented JSON file."""
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
