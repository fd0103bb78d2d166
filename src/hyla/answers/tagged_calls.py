"""Calls as tags, with a tag for each argument. Values are text; the tool's schema says which of them are strings."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hyla.answers.protocol import ToolDelta
from hyla.answers.scanning import CallScanner
from hyla.answers.tools import ToolUse

LITERALS = {"True": True, "False": False, "None": None}
"""Python's spelling, which models write where JSON's should stand."""


@dataclass(frozen=True)
class Tags:
    """The spelling of one format. `*_open` and `*_name_end` stand around a name."""

    section: tuple[str, str]
    call_open: str
    call_name_end: str
    call_close: str
    parameter_open: str
    parameter_name_end: str
    parameter_close: str
    has_lines: bool = False
    """A value stands on lines of its own: one line end on each side is not part of it."""
    call_starts_section: bool = False
    """Models write calls without the section's opening, too."""
    split_name: Callable[[str], tuple[str, bool | None]] = lambda name: (name, None)
    """A function from what stands in a parameter's tag to its name and whether the tag says that it is a string."""


def is_string(schema: Any) -> bool | None:
    """Whether a schema asks for a string; None when it does not say."""
    if not isinstance(schema, dict):
        return None
    kind = schema.get("type")
    if isinstance(kind, str):
        return kind == "string"
    if isinstance(kind, list) and kind:
        return "string" in kind and "null" not in kind
    if isinstance(schema.get("enum"), list):
        return all(isinstance(value, str) for value in schema["enum"])
    return None


def value_json(text: str, schema: Any) -> str:
    """A value that is not (surely) a string as JSON text; text that is no JSON becomes a string."""
    stripped = text.strip()
    if stripped in LITERALS and is_string(schema) is not True:
        return json.dumps(LITERALS[stripped])
    try:
        json.loads(stripped)
    except (ValueError, RecursionError):
        return json.dumps(text, ensure_ascii=False)
    return stripped


class TaggedCalls(CallScanner):
    """Calls in the spelling of `tags`."""

    def __init__(self, tags: Tags, tools: ToolUse):
        self.tags, self.tools = tags, tools
        self.openings = (tags.section[0], tags.call_open) if tags.call_starts_section else (tags.section[0],)
        super().__init__()
        self._num_before = 0
        self._name = ""
        self._has_parameters = False
        self._schema: Any = None
        self._value = ""
        """The parameter's value so far: all of it, or, of a string (which is streamed), what is held back."""
        self._streams = False
        self._is_first_piece = True

    def _opened(self, marker):
        self._num_before = self._num_calls
        self._state = self._in_call_name if marker == self.tags.call_open else self._in_section

    def _in_section(self) -> bool:
        before, found = self._until(self.tags.call_open, self.tags.section[1])
        self._raw += before + (found or "")
        if found is None:
            return False
        if found == self.tags.call_open:
            self._state = self._in_call_name
        else:
            self._back_to_text(is_empty=self._num_calls == self._num_before)
        return True

    def _in_call_name(self) -> bool:
        name = self._name_until(self.tags.call_name_end)
        if name is None:
            return False
        self._raw += name[0] + name[1]
        self._name, self._has_parameters, self._space = name[0].strip(), False, ""
        self._out.append(ToolDelta(self._num_calls, self._name))
        self._num_calls += 1
        self._state = self._in_call
        return True

    def _in_call(self) -> bool:
        tags = self.tags
        _, found = self._until(tags.parameter_open, tags.call_close, tags.section[1])
        if found is None:
            return False
        if found == tags.parameter_open:
            self._state = self._in_parameter_name
            return True
        self._give("}" if self._has_parameters else "{}")
        if found == tags.call_close:
            self._state = self._in_section
        else:
            self._back_to_text(is_empty=False)
        return True

    def _in_parameter_name(self) -> bool:
        found = self._name_until(self.tags.parameter_name_end)
        if found is None:
            return False
        name, says_string = self.tags.split_name(found[0].strip())
        properties = self.tools.parameters_of(self._name).get("properties")
        self._schema = properties.get(name) if isinstance(properties, dict) else None
        self._streams = is_string(self._schema) is True if says_string is None else says_string
        before = ", " if self._has_parameters else "{"
        self._give(before + json.dumps(name, ensure_ascii=False) + ": " + ('"' if self._streams else ""))
        self._has_parameters, self._is_first_piece, self._value = True, True, ""
        self._state = self._in_value
        return True

    def _in_value(self) -> bool:
        before, found = self._until(self.tags.parameter_close)
        self._value += before
        if self.tags.has_lines and self._is_first_piece and self._value:
            self._value = self._value.removeprefix("\n")
            self._is_first_piece = False
        if found is not None:
            value = self._value.removesuffix("\n") if self.tags.has_lines else self._value
            self._give(_escaped(value) + '"' if self._streams else value_json(value, self._schema))
            self._state = self._in_call
            return True
        if self._streams:
            keep = 1 if self.tags.has_lines and self._value.endswith("\n") else 0
            cut = len(self._value) - keep
            self._give(_escaped(self._value[:cut]))
            self._value = self._value[cut:]
        return False

    def _give(self, text: str) -> None:
        if text:
            self._out.append(ToolDelta(self._num_calls - 1, arguments=text))

    def _ended(self):
        if self._num_calls > self._num_before and self._raw:
            return
        super()._ended()


def _escaped(text: str) -> str:
    """Text as it stands between the quotes of a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]
