"""What JSON cannot tell a template's process: which objects are a call's arguments."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


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
