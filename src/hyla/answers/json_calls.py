"""Calls as JSON objects between two markers: {"name": ..., "arguments": {...}}, one or several, also as a list."""

from __future__ import annotations

import json

from hyla.answers.json_text import EMPTY, JsonText, mended
from hyla.answers.protocol import Delta, ToolDelta
from hyla.answers.scanning import CallScanner

ARGUMENT_KEYS = ("arguments", "parameters")


class JsonCall:
    """Reads one call character by character; the arguments stream as soon as the name is known.

    Only as much is checked as is needed to find the ends: arguments are the model's text, valid or not, apart from what
    JsonText mends.
    """

    def __init__(self, index: int):
        self.index = index
        self.deltas: list[Delta] = []
        self.is_over = False
        self.name: str | None = None
        self._expects = "object"
        """What must come next: "object", "key", "colon", "value" or "comma"."""
        self._value: list[str] = []
        self._key = ""
        self._depth, self._in_string, self._is_escaped = 0, False, False
        self._has_arguments = False
        self._text = JsonText()
        """Mends arguments that stream."""
        self._waiting = ""
        """Arguments that came before the name."""

    def feed(self, char: str) -> bool:
        """Whether the character belongs to the call."""
        if self._value:
            return self._feed_value(char)
        if char.isspace():
            return True
        if self._expects == "object" and char == "{":
            self._expects = "key"
        elif self._expects in ("key", "value") and char not in "}],:":
            self._feed_first(char)
        elif self._expects == "colon" and char == ":":
            self._expects = "value"
        elif self._expects == "comma" and char == ",":
            self._expects = "key"
        elif self._expects in ("key", "comma") and char == "}":
            self._end()
        else:
            self._end()
            return False
        return True

    def _feed_first(self, char: str) -> None:
        self._value = [char]
        self._in_string = char == '"'
        self._depth = 1 if char in "{[" else 0
        if self._streams:
            self._text = JsonText()
            self._give(self._text.push(char))

    @property
    def _streams(self) -> bool:
        """Whether the value goes out as it comes: arguments as an object, after the name."""
        is_arguments = self._expects == "value" and self._key in ARGUMENT_KEYS
        return is_arguments and self.name is not None and not self._has_arguments and self._value[0] == "{"

    def _feed_value(self, char: str) -> bool:
        if not self._in_string and self._depth == 0 and (char in ",}]:" or char.isspace()):
            self._finish_value()
            return self.feed(char)
        if not self._in_string and char in "<`":
            # No JSON outside a string has these: a marker cuts the object short.
            self._end()
            return False
        self._value.append(char)
        if self._streams:
            self._give(self._text.push(char))
        if self._in_string:
            if self._is_escaped:
                self._is_escaped = False
            elif char == "\\":
                self._is_escaped = True
            elif char == '"':
                self._in_string = False
        elif char == '"':
            self._in_string = True
        elif char in "{[":
            self._depth += 1
        elif char in "}]":
            self._depth -= 1
        if not self._in_string and self._depth == 0 and char in '"}]':
            self._finish_value()
        return True

    def _finish_value(self) -> None:
        text, streamed = "".join(self._value), self._streams
        self._value = []
        if self._expects == "key":
            self._key, self._expects = str(_loaded(text)), "colon"
            return
        self._expects = "comma"
        if self._key == "name" and self.name is None:
            name = _loaded(text)
            if isinstance(name, str) and name:
                self.name = name
                self.deltas.append(ToolDelta(self.index, name))
                if self._waiting:
                    self._give(self._waiting)
        elif self._key in ARGUMENT_KEYS and not self._has_arguments:
            self._has_arguments = True
            inner = _loaded(text)
            whole = mended(inner if isinstance(inner, str) else text)
            if not streamed and self.name is None:
                self._waiting = whole
            elif not streamed:
                self._give(whole)

    def _give(self, text: str) -> None:
        if not text:
            return
        last = self.deltas[-1] if self.deltas else None
        if isinstance(last, ToolDelta) and last.name is None:
            self.deltas[-1] = ToolDelta(self.index, arguments=last.arguments + text)
        else:
            self.deltas.append(ToolDelta(self.index, arguments=text))

    def _end(self) -> None:
        self.is_over = True
        if self.name is not None and not self._has_arguments and not self._value:
            self._give(EMPTY)

    def cut(self) -> None:
        """The text is over within the call: give out what was held back."""
        if self._value and self._streams:
            self._give(self._text.finish())

    def taken(self) -> list[Delta]:
        given, self.deltas = self.deltas, []
        return given


def _loaded(text: str):
    """A JSON value; text that is none stays as it is."""
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return text


class JsonCalls(CallScanner):
    """opening, closing: the markers around one call or a list of them."""

    def __init__(self, opening: str, closing: str):
        self.openings, self.closing = (opening,), closing
        super().__init__()
        self._call = JsonCall(0)
        self._num_before = 0

    def _opened(self, marker):
        self._num_before = self._num_calls
        self._state = self._between

    def _between(self) -> bool:
        """Before a call of the section, or after its last one."""
        before, found = self._until("{", self.closing, *self.openings)
        self._raw += before
        if found is None:
            return False
        if found == "{":
            self._call = JsonCall(self._num_calls)
            self._buffer = "{" + self._buffer
            self._state = self._in_call
        elif found == self.closing:
            self._raw += found
            self._back_to_text(is_empty=self._num_calls == self._num_before)
        else:  # the next section, without the end of this one
            self._raw += found
        return True

    def _in_call(self) -> bool:
        taken = 0
        for char in self._buffer:
            if not self._call.feed(char):
                break
            taken += 1
            if self._call.is_over:
                break
        self._raw += self._buffer[:taken]
        self._buffer = self._buffer[taken:]
        if self._call.name is not None and self._call.index == self._num_calls:
            self._num_calls += 1
            # Text before the first call ends without its space.
            self._space = ""
        self._out += self._call.taken()
        if not self._call.is_over:
            return False
        self._state = self._between
        return True

    def _ended(self):
        if self._num_calls > self._num_before and self._raw:
            self._call.cut()
            self._out += self._call.taken()
            return
        super()._ended()
