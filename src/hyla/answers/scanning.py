"""Text that arrives in pieces, taken up to markers: nothing is given out that may still be the start of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hyla.answers.protocol import Delta, TextDelta


def held_length(text: str, markers: Sequence[str]) -> int:
    """Length of the longest end of the text that a marker begins with, whole markers apart.

    >>> held_length("sum <too", ["<tool_call>"])
    4
    """
    longest = min(max((len(marker) for marker in markers), default=1) - 1, len(text))
    for size in range(longest, 0, -1):
        end = text[len(text) - size :]
        if any(marker.startswith(end) for marker in markers):
            return size
    return 0


class Scanner:
    """A parser as states: methods that take from the buffer and say whether the next one may go on at once."""

    def __init__(self):
        self._buffer = ""
        self._out: list[Delta] = []
        self._state: Callable[[], bool] = self._start
        self._is_over = False

    def _start(self) -> bool:
        raise NotImplementedError

    def _ended(self) -> None:
        """The text is over and no state can go on: give out what was held back."""

    def push(self, text: str) -> Sequence[Delta]:
        self._buffer += text
        return self._run()

    def finish(self) -> Sequence[Delta]:
        self._is_over = True
        given = list(self._run())
        self._ended()
        return [*given, *self._taken()]

    def _run(self) -> Sequence[Delta]:
        while self._state():
            pass
        return self._taken()

    def _taken(self) -> Sequence[Delta]:
        given, self._out = self._out, []
        return given

    def _until(self, *markers: str) -> tuple[str, str | None]:
        """Take the text up to the earliest marker, and the marker; without one, all that cannot belong to one."""
        places = [(place, -len(marker), marker) for marker in markers if (place := self._buffer.find(marker)) >= 0]
        if places:
            place, _, found = min(places)
            before, self._buffer = self._buffer[:place], self._buffer[place + len(found) :]
            return before, found
        keep = 0 if self._is_over else held_length(self._buffer, markers)
        cut = len(self._buffer) - keep
        before, self._buffer = self._buffer[:cut], self._buffer[cut:]
        return before, None

    def _name_until(self, *markers: str) -> tuple[str, str] | None:
        """The text up to the earliest marker once that is there; before, everything stays in the buffer."""
        places = [(place, -len(marker), marker) for marker in markers if (place := self._buffer.find(marker)) >= 0]
        if not places:
            return None
        place, _, found = min(places)
        before, self._buffer = self._buffer[:place], self._buffer[place + len(found) :]
        return before, found

    def _take(self, marker: str) -> None:
        """Take the text up to a marker that is there, and the marker."""
        self._buffer = self._buffer.partition(marker)[2]


class CallScanner(Scanner):
    """Text with calls in it. Space around calls belongs to the format and is not shown.

    openings: markers that leave the text. A subclass goes on in `_opened` and comes back by `_back_to_text`. What was
    opened and held no call is text after all: `_raw` collects it.
    """

    openings: tuple[str, ...]

    def __init__(self):
        super().__init__()
        self._space = ""
        """Space at the end of the text so far."""
        self._skips_space = False
        self._raw = ""
        self._num_calls = 0

    def _start(self) -> bool:
        before, found = self._until(*self.openings)
        self._give_text(before)
        if found is None:
            return False
        self._raw = found
        self._opened(found)
        return True

    def _opened(self, marker: str) -> None:
        """An opening was found; set the next state."""
        raise NotImplementedError

    def _back_to_text(self, *, is_empty: bool) -> None:
        """A section ended. is_empty: it held no call, so that its raw text is shown."""
        if is_empty:
            self._give_text(self._raw)
        else:
            self._space, self._skips_space = "", True
        self._raw = ""
        self._state = self._start

    def _give_text(self, text: str) -> None:
        if self._skips_space:
            text = text.lstrip()
            if not text:
                return
            self._skips_space = False
        whole = self._space + text
        shown = whole.rstrip()
        self._space = whole[len(shown) :]
        if shown:
            self._out.append(TextDelta(shown))

    def _ended(self) -> None:
        if self._raw:
            self._give_text(self._raw + self._buffer)
        if self._space and not self._skips_space:
            self._out.append(TextDelta(self._space))
