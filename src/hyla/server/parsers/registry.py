"""Parsers by name, and which one a chat template asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hyla.server.parsers.protocol import Parser, PlainParser
from hyla.server.tools import ToolUse

TOOL_PARSERS: tuple = ()
REASONING_PARSERS: tuple = ()


@dataclass(frozen=True)
class Reading:
    """How the answers to one prompt are sampled and read."""

    parser: Callable[[], Parser]
    """A new parser for one choice."""
    params: dict[str, Any]
    """Sampling parameters that it needs."""


@dataclass(frozen=True)
class AnswerFormat:
    """How one model's answers are to be read."""

    def names(self) -> dict[str, str | None]:
        return {}

    def reading(self, prompt: str, tools: ToolUse, grammar: dict | None) -> Reading:
        """For the answers to a prompt. grammar: what the request wants them to look like."""
        return Reading(PlainParser, {"grammar": grammar})


def answer_format(template: str, tool_parser: str | None = None, reasoning_parser: str | None = None) -> AnswerFormat:
    """The format of a chat template, or the named one. Raises ConfigError for an unknown name."""
    return AnswerFormat()
