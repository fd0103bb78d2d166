"""Calls as tags, with a tag for each argument. Values are text; the tool's schema says which of them are strings."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hyla.answers.protocol import ToolDelta
from hyla.answers.scanning import CallScanner
from hyla.answers.schemas import Wanted, properties_of, wanted_of
from hyla.answers.tools import ToolUse
from hyla.answers.values import value_json


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


STREAMED = frozenset({"string", "null", "integer", "number"})
"""Of these kinds a value is a string unless it is null: its text streams as soon as it cannot be that."""


class TaggedCalls(CallScanner):
    """Calls in the spelling of `tags`."""

    def __init__(self, tags: Tags, tools: ToolUse):
        self.tags, self.tools = tags, tools
        self.openings = (tags.section[0], tags.call_open) if tags.call_starts_section else (tags.section[0],)
        super().__init__()
        self._num_before = 0
        self._schema: Any = {}
        self._properties: dict[str, Any] = {}
        """The schemas of the call's arguments, and of each by its name."""
        self._has_parameters = False
        self._wanted, self._is_json = Wanted(), False
        self._value = ""
        """The parameter's value so far: all of it, or, of a string (which is streamed), what is held back."""
        self._may_stream = self._streams = False
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
        called, self._has_parameters, self._space = name[0].strip(), False, ""
        self._schema = self.tools.parameters_of(called)
        self._properties = properties_of(self._schema)
        self._out.append(ToolDelta(self._num_calls, called))
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
        self._expect(name, says_string)
        self._give((", " if self._has_parameters else "{") + json.dumps(name, ensure_ascii=False) + ": ")
        self._has_parameters, self._is_first_piece, self._value = True, True, ""
        self._state = self._in_value
        return True

    def _expect(self, name: str, says_string: bool | None) -> None:
        """How the parameter's value is to be read. The tag's word counts where the schema leaves it a choice."""
        wanted = wanted_of(self._properties.get(name, self._schema.get("additionalProperties")), self._schema)
        if says_string and "string" in wanted.kinds and wanted.values is None:
            wanted = Wanted(frozenset({"string"}))
        self._wanted, self._is_json = wanted, says_string is False
        self._may_stream = "string" in wanted.kinds <= STREAMED and wanted.values is None and not self._is_json
        self._streams = False

    def _in_value(self) -> bool:
        before, found = self._until(self.tags.parameter_close)
        self._value += before
        if self.tags.has_lines and self._is_first_piece and self._value:
            self._value = self._value.removeprefix("\n")
            self._is_first_piece = False
        if found is not None:
            self._end_value(self._value.removesuffix("\n") if self.tags.has_lines else self._value)
            self._state = self._in_call
            return True
        self._stream()
        return False

    def _stream(self) -> None:
        """Give out what is certain of a string."""
        if not self._streams and self._may_stream:
            self._streams = self._wanted.is_text or not "null".startswith(self._value.strip())
            self._give('"' if self._streams else "")
        if self._streams:
            keep = 1 if self.tags.has_lines and self._value.endswith("\n") else 0
            cut = len(self._value) - keep
            self._give(_escaped(self._value[:cut]))
            self._value = self._value[cut:]

    def _end_value(self, rest: str) -> None:
        """rest: the value, or what of it was not given out yet."""
        if self._streams:
            self._give(_escaped(rest) + '"')
        else:
            self._give(value_json(rest, self._wanted, is_json=self._is_json))

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
