"""Calls that a model writes before it has closed its reasoning, told from mere mentions of the format."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import Enum

from hyla.answers.protocol import Parser, TextDelta, ToolDelta

MOST_HEAD_CHARS = 512
"""A call has said its tool's name within so many characters."""
MOST_ENDS = 8
"""Ends to try; arguments may have texts in them that look like one."""


@dataclass(frozen=True)
class Section:
    """What stands around calls of one format."""

    opening: str
    closing: str
    starts: tuple[str, ...]
    """What a call in it begins with."""
    is_special: bool = False
    """Its markers are tokens of their own, so that the first call's name is enough to know it for one."""


class Verdict(Enum):
    """What follows an opening; BEGINS: a call has begun, and its end need not be waited for."""

    UNKNOWN = 0
    MENTION = 1
    BEGINS = 2


class EarlyCalls:
    """Watches one answer's reasoning.

    make: a new parser of the format. names: of the tools.
    """

    def __init__(self, sections: Sequence[Section], make: Callable[[], Parser], names: Collection[str]):
        self.sections = {section.opening: section for section in sections}
        self.make, self.names = make, frozenset(names)
        self._num_tried = 0

    @property
    def openings(self) -> tuple[str, ...]:
        return tuple(self.sections)

    def look(self, opening: str, rest: str, closing: str, *, is_over: bool) -> Verdict | int:
        """What the text after an opening is, or the length of it that is a whole call of a known tool.

        closing: of the reasoning. is_over: no more text comes.
        """
        found = self._look(self.sections[opening], *rest.partition(closing)[:2], is_over=is_over)
        if found is not Verdict.UNKNOWN:
            self._num_tried = 0
        return found

    def _look(self, section: Section, rest: str, closing: str, *, is_over: bool) -> Verdict | int:
        body = rest.lstrip()
        if not any(body.startswith(start) or start.startswith(body) for start in section.starts):
            return Verdict.MENTION
        names = [delta.name for delta in self._read(section, rest[:MOST_HEAD_CHARS]) if isinstance(delta, ToolDelta)]
        if any(name is not None and name not in self.names for name in names):
            return Verdict.MENTION
        if section.is_special and names:
            return Verdict.BEGINS
        size = self._whole(section, rest)
        if size is not None:
            return size
        if closing or is_over or self._num_tried > MOST_ENDS or (len(rest) > MOST_HEAD_CHARS and not names):
            return len(rest) if is_over and not closing and self._is_call(section, rest) else Verdict.MENTION
        return Verdict.UNKNOWN

    def _whole(self, section: Section, rest: str) -> int | None:
        """The length up to the first end behind which a call is whole; ends that were tried before are passed over."""
        place = -1
        for number in range(rest.count(section.closing)):
            place = rest.index(section.closing, place + 1)
            if number < self._num_tried:
                continue
            self._num_tried += 1
            size = place + len(section.closing)
            if self._is_call(section, rest[:size]):
                return size
        return None

    def _read(self, section: Section, text: str):
        return self.make().push(section.opening + text)

    def _is_call(self, section: Section, text: str) -> bool:
        """Whether a text is calls and nothing else, each of a known tool and with an object as its arguments."""
        parser = self.make()
        arguments: list[str] = []
        for delta in [*parser.push(section.opening + text), *parser.finish()]:
            if isinstance(delta, TextDelta) and delta.text.strip():
                return False
            if isinstance(delta, ToolDelta) and delta.name is not None:
                if delta.name not in self.names:
                    return False
                arguments.append("")
            if isinstance(delta, ToolDelta):
                arguments[-1] += delta.arguments
        return bool(arguments) and all(map(_is_object, arguments))


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
