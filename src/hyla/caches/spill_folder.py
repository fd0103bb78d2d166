"""The files of spilled segments in one folder, within a number of bytes; least recently used out first."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from hyla.caches.spill_file import SUFFIX, remove_leftovers
from hyla.errors import ConfigError


class SpillFolder:
    """Makes the folder and removes what killed writers left. Other engines may use it at the same time.

    most_bytes: of all segments in it, whoever wrote them. Raises ConfigError when the folder cannot be used.
    """

    def __init__(self, folder: str | Path, most_bytes: int):
        self.folder, self.most_bytes = Path(folder), most_bytes
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.num_leftovers = remove_leftovers(self.folder)
            writable = os.access(self.folder, os.R_OK | os.W_OK | os.X_OK)
        except OSError as error:
            raise ConfigError(f"spill_folder = {str(folder)!r} cannot be used: {error}; choose another") from error
        if not writable:
            raise ConfigError(f"spill_folder = {str(folder)!r} is not readable and writable; choose another")

    def segments(self) -> list[Path]:
        """Their files, by name."""
        return sorted(self.folder.glob(f"*{SUFFIX}"))

    def touch(self, name: str) -> None:
        """A segment was used now."""
        try:
            os.utime(self.folder / name)
        except OSError:  # gone, or another user's: it only loses its place in the order
            return

    def make_room(self, num_bytes: int, kept: set[str]) -> list[str] | None:
        """Remove least recently used segments, but none of `kept`, until so many bytes more stay within the limit.

        Returns the names of the removed ones; None, removing nothing, where it cannot be.
        """
        found = list(self._sizes())
        total = sum(size for _, _, size in found) + num_bytes
        removable = sorted(entry for entry in found if entry[1] not in kept)
        if total - sum(size for *_, size in removable) > self.most_bytes:
            return None
        removed = []
        for _, name, size in removable:
            if total <= self.most_bytes:
                break
            (self.folder / name).unlink(missing_ok=True)
            total -= size
            removed.append(name)
        return removed

    def _sizes(self) -> Iterator[tuple[int, str, int]]:
        """(time of last use, name, bytes) of all segments."""
        for file in self.segments():
            try:
                stat = file.stat()
            except FileNotFoundError:  # another engine has just removed it
                continue
            yield stat.st_mtime_ns, file.name, stat.st_size
