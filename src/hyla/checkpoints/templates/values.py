"""What goes to a template's process and comes back: JSON behind its length."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from typing import Any

LENGTH = struct.Struct(">Q")
"""Bytes of the JSON that follows."""


class Arguments(dict):
    """A call's arguments. Templates that expect an object find one, those that expect JSON text can join it to text.

    written: what the model wrote, where that is no object; it is shown as text again, and as an object under the name
    that Anthropic's clients get it by.
    """

    def __init__(self, value: Mapping[str, Any], written: str | None = None):
        super().__init__(value)
        self.written = written

    def __str__(self) -> str:
        return json.dumps(self, ensure_ascii=False) if self.written is None else self.written

    def __add__(self, other: str) -> str:
        return str(self) + other

    def __radd__(self, other: str) -> str:
        return other + str(self)


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


def written_arguments(messages: list) -> list[tuple[int, int, str | None]]:
    """Where arguments are `Arguments`, which JSON does not tell from an object: (message, call, written)."""
    found = []
    for n, message in enumerate(messages):
        calls = message.get("tool_calls") if isinstance(message, dict) else None
        for m, call in enumerate(calls if isinstance(calls, list) else ()):
            arguments = _function_of(call).get("arguments")
            if isinstance(arguments, Arguments):
                found.append((n, m, arguments.written))
    return found


def restore_arguments(messages: list, places: list[tuple[int, int, str | None]]) -> None:
    """Make them `Arguments` again, in place."""
    for n, m, written in places:
        function = _function_of(messages[n]["tool_calls"][m])
        function["arguments"] = Arguments(function["arguments"], written)


def _function_of(call: Any) -> dict:
    function = call.get("function") if isinstance(call, dict) else None
    return function if isinstance(function, dict) else {}
