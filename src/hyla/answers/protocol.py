"""What parsers give: pieces of an answer, each certain when it is given.

Pieces that arrive in other portions of the same text join to the same answer: a parser's state after a text does not
depend on how the text was cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class TextDelta:
    """More of the answer's text."""

    text: str


@dataclass(frozen=True)
class ReasoningDelta:
    """More of the reasoning before it."""

    text: str


@dataclass(frozen=True)
class ToolDelta:
    """The start of a call (it has a name) or more of its arguments."""

    index: int
    """Number of the call in the answer, from 0."""
    name: str | None = None
    arguments: str = ""
    """A piece of the arguments' JSON text. It is the model's: it may not be valid JSON."""
    call_id: str | None = None
    """The call's id, given with its name when the model's format has ids."""


Delta = TextDelta | ReasoningDelta | ToolDelta


class Parser(Protocol):
    """Reads one answer as its text arrives."""

    def push(self, text: str) -> Sequence[Delta]:
        """Take the next text; returns what became certain."""
        ...

    def finish(self) -> Sequence[Delta]:
        """The text has ended; returns what was held back."""
        ...


class PlainParser:
    """For models without reasoning and tool calls: all text is the answer's."""

    def push(self, text: str) -> Sequence[Delta]:
        return [TextDelta(text)] if text else []

    def finish(self) -> Sequence[Delta]:
        return []
