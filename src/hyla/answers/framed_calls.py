"""Calls whose name and arguments stand between markers of their own, the arguments as JSON text."""

from __future__ import annotations

from collections.abc import Callable

from hyla.answers.json_text import EMPTY, NOTHING, JsonText
from hyla.answers.protocol import ToolDelta
from hyla.answers.scanning import CallScanner

NameOf = Callable[[str], tuple[str, str | None]]
"""A function from the text before the arguments to the call's name (empty: it says none) and the id that the format
gives it, if any."""


class FramedCalls(CallScanner):
    """section: markers around all calls. call: what starts one. between: what stands before its arguments.

    ends: what may stand after them; the next call may, too.
    """

    def __init__(self, *, section: tuple[str, str], call: str, between: str, ends: tuple[str, ...], name_of: NameOf):
        self.section, self.call, self.between, self.ends, self.name_of = section, call, between, ends, name_of
        self.openings = (section[0], call)
        super().__init__()
        self._num_before = 0
        self._text, self._held = JsonText(), ""
        """The arguments, and the space at their end so far."""
        self._has_arguments = False

    def _opened(self, marker):
        self._num_before = self._num_calls
        self._state = self._in_header if marker == self.call else self._in_section

    def _in_section(self) -> bool:
        before, found = self._until(self.call, self.section[1])
        self._raw += before + (found or "")
        if found is None:
            return False
        if found == self.call:
            self._state = self._in_header
        else:
            self._back_to_text(is_empty=self._num_calls == self._num_before)
        return True

    def _in_header(self) -> bool:
        header = self._name_until(self.between)
        if header is None:
            return False
        self._raw += header[0] + header[1]
        name, call_id = self.name_of(header[0].strip())
        if not name or any(char.isspace() or char == "<" for char in name):
            # No tool can have such a name: it is text, unless the section has a call besides.
            self._state = self._in_section
            return True
        self._out.append(ToolDelta(self._num_calls, name, call_id=call_id))
        self._num_calls += 1
        self._space, self._text, self._held, self._has_arguments = "", JsonText(), "", False
        self._state = self._in_arguments
        return True

    def _in_arguments(self) -> bool:
        before, found = self._until(*self.ends, self.section[1], self.call)
        self._raw += before + (found or "")
        text = self._held + self._text.push(before)
        if found is not None:
            text += self._text.finish()
        if not self._has_arguments:
            text = text.lstrip()
        shown = text.rstrip()
        self._held = text[len(shown) :]
        if not self._has_arguments and shown in NOTHING:
            shown = EMPTY if found is not None else ""
            self._held = text if found is None else ""
        if shown:
            self._has_arguments = True
            self._out.append(ToolDelta(self._num_calls - 1, arguments=shown))
        if found is None:
            return False
        if found == self.section[1]:
            self._back_to_text(is_empty=False)
        else:
            self._state = self._in_header if found == self.call else self._in_section
        return True

    def _ended(self):
        if self._num_calls > self._num_before and self._raw:
            rest = self._text.finish()
            if rest:
                self._out.append(ToolDelta(self._num_calls - 1, arguments=self._held + rest))
            return
        super()._ended()
