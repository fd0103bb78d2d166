"""Files that are whole or absent: written beside their name, then renamed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path


def partial_name(path: Path) -> Path:
    """Where the unfinished file or folder stands. Leftovers with such names belong to killed runs."""
    return path.with_name(f".{path.name}.partial")


def replace_json(path: Path, value) -> None:
    """Write a value as JSON over an older file; a reader sees the old one or the new one, never a part."""
    partial = partial_name(path)
    with partial.open("w", encoding="utf-8") as file:
        file.write(json.dumps(value, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def start_folder(path: Path) -> Path:
    """An empty folder to fill before `finish_folder(path)`; a killed run's leftover is removed first."""
    partial = partial_name(path)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def finish_folder(path: Path) -> None:
    """Give the filled folder its name, replacing an older one."""
    if path.is_dir():
        shutil.rmtree(path)
    os.replace(partial_name(path), path)
