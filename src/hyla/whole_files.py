"""Files that are read and written whole. No PyTorch.

Read: regular ones of bounded size, so that no path makes a reader wait or fill the memory. Written: all or nothing, so
that a full disk or a killed process leaves the older file.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def read_whole(file: Path, most: int) -> bytes:
    """The bytes of a regular file, at most so many.

    Raises OSError, whose `strerror` says what is wrong: no such file, no permission, no regular file, too large.
    """
    # Not blocking: opening a pipe would wait for whoever writes into it.
    descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        status = os.fstat(descriptor)
        _check_kind(status.st_mode, file)
        data = b""
        if status.st_size <= most:  # a file may still grow
            with open(descriptor, "rb", closefd=False) as opened:
                data = opened.read(most + 1)
    finally:
        os.close(descriptor)
    if max(status.st_size, len(data)) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most:,} bytes", str(file))
    return data


def require_regular(file: Path) -> None:
    """Raise OSError, as `read_whole` does, for anything but a regular file or a link to one."""
    _check_kind(os.stat(file).st_mode, file)


def _check_kind(mode: int, file: Path) -> None:
    if not stat.S_ISREG(mode):
        kind = KINDS.get(stat.S_IFMT(mode), "no regular file")
        raise OSError(errno.EINVAL, f"it is {kind}, not a file", str(file))


def partial_name(path: Path) -> Path:
    """Where an unfinished file or folder stands. Leftovers with such names belong to killed processes."""
    return path.with_name(f".{path.name}.partial")


def write_whole(file: Path, text: str) -> None:
    """Write a text over an older file; a reader sees the old one or the new one, never a part. Raises OSError."""
    partial = partial_name(file)
    try:
        with partial.open("w", encoding="utf-8") as opened:
            opened.write(text)
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(partial, file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
