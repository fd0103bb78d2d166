"""Files that are whole or absent: written beside their name, then renamed."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hyla.errors import CheckpointError, ConfigError
from hyla.whole_files import partial_name, write_whole


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Raise CheckpointError for what the disk refuses. Whoever writes leaves nothing half-written."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"cannot write {place}: {error.strerror or error}; free some space there, then give the same command "
            "again: it goes on from the last checkpoint"
        ) from error


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Nobody else may prepare or train in a folder meanwhile, whether it exists yet or not.

    Raises ConfigError where somebody does. Whoever is killed holds nothing.
    """
    folder = folder.absolute()
    lock = folder.with_name(f".{folder.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with lock.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(
                    f"another process works in {folder}; wait for it, end it, or choose another --out"
                ) from None
            if os.fstat(file.fileno()).st_nlink == 0:  # its last holder has just removed it
                continue
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
            return


def whole_lines(data: bytes) -> list[str]:
    """The lines of a file, with their ends, without a last one that a killed process was writing."""
    lines = data.decode("utf-8", "replace").splitlines(keepends=True)
    return lines[:-1] if lines and not lines[-1].endswith("\n") else lines


def kept_lines(path: Path) -> list[str]:
    """The lines of a file of `append_lines`, with their ends; a last one that a killed process was writing is cut off
    the file. None where there is no file."""
    if not path.exists():
        return []
    data = path.read_bytes()
    if not data.endswith(b"\n"):
        with writing(path):
            os.truncate(path, data.rfind(b"\n") + 1)
    return whole_lines(data)


def append_lines(path: Path, records: Iterable[dict]) -> None:
    """Add records as JSON, a line each, which are on the disk then. Its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path), path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(record) + "\n" for record in records))
        file.flush()
        os.fsync(file.fileno())


def replace_json(path: Path, value) -> None:
    """Write a value as JSON over an older file; a reader sees the old one or the new one, never a part."""
    with writing(path):
        write_whole(path, json.dumps(value, indent=2) + "\n")


@contextmanager
def filling(path: Path) -> Iterator[Path]:
    """An empty folder to fill, which then gets its name, or goes when something fails. Raises CheckpointError."""
    try:
        with writing(path):
            yield start_folder(path)
            finish_folder(path)
    except BaseException:
        shutil.rmtree(partial_name(path), ignore_errors=True)
        raise


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
