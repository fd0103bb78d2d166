"""What goes to such a process and comes back: JSON behind its length."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

LENGTH = struct.Struct(">Q")
"""Bytes of the JSON that follows."""


def pack(value: Any) -> bytes:
    """A message as bytes. Raises TypeError or ValueError for what JSON cannot hold."""
    # Characters as they are: Chinese would be three times as long escaped. Lone surrogates pass, too.
    data = json.dumps(value, ensure_ascii=False, check_circular=False).encode("utf-8", "surrogatepass")
    return LENGTH.pack(len(data)) + data


def receive(read: Callable[[int], bytes], most_bytes: int | None = None) -> Any:
    """The next message; None at the end of the stream. read: gives at most so many bytes, none at the end.

    Raises ValueError for one that is longer than most_bytes.
    """
    head = _exactly(read, LENGTH.size)
    if head is None:
        return None
    (size,) = LENGTH.unpack(head)
    if most_bytes is not None and size > most_bytes:
        raise ValueError(f"a message of {size:,} bytes is longer than {most_bytes:,}")
    data = _exactly(read, size)
    return None if data is None else json.loads(data.decode("utf-8", "surrogatepass"))


def _exactly(read: Callable[[int], bytes], size: int) -> bytearray | None:
    data = bytearray()
    while len(data) < size:
        piece = read(min(size - len(data), 1 << 20))
        if not piece:
            return None
        data += piece
    return data
