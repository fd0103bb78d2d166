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
from hyla.answers.values import spellings, value_json


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


STREAMED = frozenset({"string", "integer", "number"})
"""Of these kinds a value is a string: its text streams as soon as it cannot be one of the single values beside them."""


class TaggedCalls(CallScanner):
    """Calls in the spelling of `tags`.

    A value ends at its closing tag. Where a model forgets that, it ends where its call or the section is closed before
    another closing tag of a parameter comes, or where the next parameter begins: one that the tool has and the call has
    not given yet. All other tags in a value are part of it.
    """

    def __init__(self, tags: Tags, tools: ToolUse):
        self.tags, self.tools = tags, tools
        self.openings = (tags.section[0], tags.call_open) if tags.call_starts_section else (tags.section[0],)
        super().__init__()
        self._num_before = 0
        self._is_in_section = False
        self._schema: Any = {}
        self._properties: dict[str, Any] = {}
        """The schemas of the call's arguments, and of each by its name."""
        self._given: set[str] = set()
        """Names of the parameters that the call has so far."""
        self._wanted, self._is_json = Wanted(), False
        self._value = ""
        """The parameter's value so far: all of it, or, of a string (which is streamed), what is held back."""
        self._is_first_piece, self._has_text, self._is_on_lines = True, False, False
        self._may_stream = self._streams = False

    def _opened(self, marker):
        self._num_before = self._num_calls
        self._is_in_section = marker == self.tags.section[0]
        self._state = self._in_section if self._is_in_section else self._in_call_name

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

    def _after_bare_call(self) -> bool:
        """Behind a call that stands in no section; models close one all the same."""
        text, end = self._buffer.lstrip(), self.tags.section[1]
        if end.startswith(text) and text != end and not self._is_over:
            return False
        self._buffer = text.removeprefix(end)
        self._back_to_text(is_empty=False)
        return True

    def _name(self, text: str, end: str) -> str | bool | None:
        """What stands in a tag, up to its end; False where no name can, None where the end is still to come.

        text: what follows the tag's opening.
        """
        inside, found, _ = text.partition(end)
        name = self.tags.split_name(inside)[0].strip(" ")
        if any(char in "<\r\n" for char in inside) or any(char.isspace() for char in name):
            return False
        if not found:
            return None
        return inside.strip(" ") if name else False

    def _in_call_name(self) -> bool:
        name = self._name(self._buffer, self.tags.call_name_end)
        if name is None:
            return False
        if not isinstance(name, str):
            if self._is_in_section:
                self._state = self._in_section
            else:
                self._back_to_text(is_empty=True)
            return True
        self._take(self.tags.call_name_end)
        self._given, self._space = set(), ""
        self._schema = self.tools.parameters_of(name)
        self._properties = properties_of(self._schema)
        self._out.append(ToolDelta(self._num_calls, name))
        self._num_calls += 1
        self._state = self._in_call
        return True

    def _in_call(self) -> bool:
        tags = self.tags
        _, found = self._until(tags.parameter_open, tags.call_close, tags.section[1], tags.call_open)
        if found is None:
            return False
        if found == tags.parameter_open:
            self._state = self._in_parameter_name
            return True
        self._give("}" if self._given else "{}")
        if found == tags.call_open:
            self._state = self._in_call_name
        elif found == tags.section[1]:
            self._back_to_text(is_empty=False)
        else:
            self._state = self._in_section if self._is_in_section else self._after_bare_call
        return True

    def _in_parameter_name(self) -> bool:
        inside = self._name(self._buffer, self.tags.parameter_name_end)
        if inside is None:
            return False
        if not isinstance(inside, str):
            self._state = self._in_call
            return True
        self._take(self.tags.parameter_name_end)
        name, says_string = self.tags.split_name(inside)
        self._expect(name, says_string)
        self._give((", " if self._given else "{") + json.dumps(name, ensure_ascii=False) + ": ")
        self._given.add(name)
        self._value, self._is_first_piece, self._has_text, self._is_on_lines = "", True, False, False
        self._state = self._in_value
        return True

    def _expect(self, name: str, says_string: bool | None) -> None:
        """How the parameter's value is to be read. The tag's word counts where the schema leaves it a choice."""
        wanted = wanted_of(self._properties.get(name, self._schema.get("additionalProperties")), self._schema)
        if says_string and "string" in wanted.kinds:
            wanted = Wanted(frozenset({"string"}), ())
        self._wanted, self._is_json = wanted, says_string is False
        self._may_stream = "string" in wanted.kinds <= STREAMED and not self._is_json
        self._streams = False

    def _in_value(self) -> bool:
        tags = self.tags
        before, found = self._until(tags.parameter_close, tags.parameter_open, tags.call_close, tags.section[1])
        self._add(before)
        if found is None:
            self._stream()
            return False
        ends = found == tags.parameter_close or self._ends_value(found)
        if ends is None:
            self._buffer = found + self._buffer
            self._stream()
            return False
        if not ends:
            self._add(found)
            return True
        if found != tags.parameter_close:
            self._buffer = found + self._buffer
        has_line = tags.has_lines or found != tags.parameter_close
        self._end_value(self._value.removesuffix("\n") if has_line else self._value)
        self._state = self._in_call
        return True

    def _add(self, text: str) -> None:
        """More of the value."""
        if not text:
            return
        if self._is_first_piece and self.tags.has_lines:
            self._is_on_lines = text.startswith("\n")
            text = text.removeprefix("\n")
        self._is_first_piece = False
        self._has_text = self._has_text or bool(text)
        self._value += text

    def _ends_value(self, tag: str) -> bool | None:
        """Whether a value without its closing tag ends before this tag; None: that is not known yet."""
        if tag == self.tags.parameter_open:
            return self._begins_next()
        rest = self._buffer
        while True:
            close, call = rest.find(self.tags.parameter_close), rest.find(self.tags.call_open)
            if close >= 0 and not 0 <= call < close:
                return False
            if call < 0:
                return True if self._is_over else None
            rest = rest[call + len(self.tags.call_open) :]
            name = self._name(rest, self.tags.call_name_end)
            if name is None and not self._is_over:
                return None
            if name in self.tools.names:
                return True

    def _begins_next(self) -> bool | None:
        """Whether the parameter that is opened here is the call's next one, and no text of the value."""
        if self._is_on_lines and self._has_text and not self._value.endswith("\n"):
            return False
        inside = self._name(self._buffer, self.tags.parameter_name_end)
        if not isinstance(inside, str):
            return None if inside is None and not self._is_over else False
        name = self.tags.split_name(inside)[0]
        return name in self._properties and name not in self._given

    def _stream(self) -> None:
        """Give out what is certain of a string."""
        if not self._streams and self._may_stream:
            self._streams = not self._may_be_single(self._value.strip())
            self._give('"' if self._streams else "")
        if self._streams:
            cut = len(self._value) - self._value.endswith("\n")
            self._give(_escaped(self._value[:cut]))
            self._value = self._value[cut:]

    def _may_be_single(self, text: str) -> bool:
        """Whether a text, without the space around it, may become one of the single values."""
        values = self._wanted.values
        return any(
            word.startswith(text)
            for value in values
            for word in ([value] if isinstance(value, str) else spellings(value))
        )

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
