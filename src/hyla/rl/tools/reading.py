"""A turn's text as a message: what it says, what it thought, and its calls."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from hyla.answers.protocol import Parser, ReasoningDelta, TextDelta, ToolDelta

PLAIN_ID = re.compile(r"[\w.:/-]{1,200}")
"""Ids that are shown to the template again; what else a model writes as one is replaced."""


@dataclass
class Call:
    """A call as the model wrote it."""

    call_id: str
    name: str
    arguments: str
    """JSON text, unless the model failed to write that."""


@dataclass
class TurnText:
    """What a turn's text says."""

    content: str = ""
    reasoning: str = ""
    calls: list[Call] = field(default_factory=list)

    def message(self) -> dict[str, Any]:
        """In OpenAI's form."""
        made: dict[str, Any] = {"role": "assistant", "content": self.content}
        if self.reasoning:
            made["reasoning_content"] = self.reasoning
        if self.calls:
            made["tool_calls"] = [
                {"id": one.call_id, "type": "function", "function": {"name": one.name, "arguments": one.arguments}}
                for one in self.calls
            ]
        return made


def calls_in(parser: Parser, text: str, prefix: str = "call") -> TurnText:
    """Read a whole turn. prefix: of the ids of calls whose format has none: they are PREFIX_0, PREFIX_1, ..."""
    found = TurnText()
    for delta in [*parser.push(text), *parser.finish()]:
        if isinstance(delta, TextDelta):
            found.content += delta.text
        elif isinstance(delta, ReasoningDelta):
            found.reasoning += delta.text
        elif isinstance(delta, ToolDelta) and delta.name is not None:
            given = delta.call_id if delta.call_id and PLAIN_ID.fullmatch(delta.call_id) else None
            found.calls.append(Call(given or f"{prefix}_{len(found.calls)}", delta.name, delta.arguments))
        else:
            found.calls[delta.index].arguments += delta.arguments
    return found


def calls_of(message: dict[str, Any]) -> list[Call]:
    """The calls of such a message."""
    return [
        Call(one["id"], one["function"]["name"], one["function"]["arguments"]) for one in message.get("tool_calls", ())
    ]
