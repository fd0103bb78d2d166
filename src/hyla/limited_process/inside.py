"""The inner end of the line: take a message, send the answer, and end with the process that started this one."""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from typing import Any

from hyla.limited_process.line import pack

MOST_REASON_CHARS = 500
PARENT_SECONDS = 5
"""How often a process that waits looks whether the one that started it is still there."""


def reader(descriptor: int = 0) -> Callable[[int], bytes]:
    """What `line.receive` reads from; it sees the end of the stream, and that of the parent."""
    parent = os.getppid()

    def read(size: int) -> bytes:
        while not select.select([descriptor], [], [], PARENT_SECONDS)[0]:
            if os.getppid() != parent:  # and another process has kept the other end open
                return b""
        return os.read(descriptor, size)

    return read


def send(reply: Any, descriptor: int = 1) -> bool:
    """Whether anybody takes it."""
    data = memoryview(pack(reply))
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError:
        return False
    return True


def reason(error: BaseException) -> str:
    """What it says, in few words."""
    said = str(error) or type(error).__name__
    return said if len(said) <= MOST_REASON_CHARS else said[: MOST_REASON_CHARS - 3] + "..."
