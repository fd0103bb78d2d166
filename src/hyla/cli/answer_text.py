"""A model's words on their way to the terminal: thinking apart from the answer."""

from __future__ import annotations

OPEN, CLOSE = "<think>", "</think>"


class ThinkingSplitter:
    """Tells a think block at the start of a text apart from the answer, piece by piece.

    >>> splitter = ThinkingSplitter()
    >>> [splitter.add(piece) for piece in ("<thi", "nk>why", "</think>so")]
    [('', ''), ('why', ''), ('', 'so')]
    """

    def __init__(self):
        self._rest, self._place = "", "start"

    def add(self, text: str) -> tuple[str, str]:
        """(thinking, answer) that is certain now; half a tag is held back."""
        self._rest += text
        if self._place == "start":
            start = self._rest.lstrip()
            if start.startswith(OPEN):
                self._rest, self._place = start.removeprefix(OPEN), "thinking"
            elif OPEN.startswith(start):
                return "", ""
            else:
                self._place = "answer"
        if self._place == "thinking":
            thinking, tag, answer = self._rest.partition(CLOSE)
            if tag:
                self._rest, self._place = "", "answer"
                return thinking, answer.lstrip()
            held = next((n for n in range(len(CLOSE) - 1, 0, -1) if thinking.endswith(CLOSE[:n])), 0)
            self._rest = thinking[len(thinking) - held :]
            return thinking[: len(thinking) - held], ""
        answer, self._rest = self._rest, ""
        return "", answer

    def end(self) -> tuple[str, str]:
        """What was held back."""
        rest, self._rest = self._rest, ""
        return (rest, "") if self._place == "thinking" else ("", rest)
