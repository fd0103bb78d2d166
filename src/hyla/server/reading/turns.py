"""Anthropic's turns as chat messages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hyla.answers.tools import FunctionTool, described
from hyla.errors import RequestError
from hyla.server.reading.content import part_text
from hyla.server.reading.results import result_text
from hyla.server.reading.skipped import Skipped
from hyla.server.schemas.messages import Block, Turn

CALLS = ("tool_use", "server_tool_use", "mcp_tool_use")
"""Blocks that call a tool, the client's own or a hosted one."""
RESULT = "tool_result"
"""The end of the names of blocks that a tool gave."""
FOUND = "search_result"
REFERENCE = "tool_reference"
TEXTS = ("text", "document")


@dataclass
class TurnReader:
    """deferred: tools that the model is told of only where a result refers to them, by name."""

    skipped: Skipped
    deferred: Mapping[str, FunctionTool] = field(default_factory=dict)
    referred: set[str] = field(default_factory=set)
    """The names among them that were referred to."""

    def messages(self, turn: Turn, where: str) -> list[dict[str, Any]]:
        """One turn; where: the place of its content in the request, for people."""
        if isinstance(turn.content, str):
            return [{"role": turn.role, "content": turn.content}]
        read = self._answer if turn.role == "assistant" else self._given
        return read(turn, turn.content, where) or [{"role": turn.role, "content": ""}]

    def _given(self, turn: Turn, blocks: list[Block], where: str) -> list[dict[str, Any]]:
        """Results of tools are messages of their own and come first."""
        texts: list[str] = []
        results: list[dict[str, Any]] = []
        for n, block in enumerate(blocks):
            place = f"{where}[{n}]"
            if block.type.endswith(RESULT):
                results.append(self._result(block, place))
            elif block.type == FOUND:
                texts.append(result_text([block.model_dump()], place, "messages", self.skipped))
            else:
                texts.append(part_text(block.model_dump(), place, "messages"))
        return [*results, {"role": turn.role, "content": "\n".join(texts)}] if texts else results

    def _answer(self, turn: Turn, blocks: list[Block], where: str) -> list[dict[str, Any]]:
        """An assistant's turn. What hosted tools gave within it stands between what was said before and after."""
        answered = {str(_field(block, "tool_use_id")) for block in blocks if block.type.endswith(RESULT)}
        made: list[dict[str, Any]] = []
        said = _Said()
        for n, block in enumerate(blocks):
            place = f"{where}[{n}]"
            if block.type.endswith(RESULT):
                made += [*said.messages(), self._result(block, place)]
                said = _Said()
            elif block.type == "tool_use" or (block.type in CALLS and str(_field(block, "id")) in answered):
                said.calls.append(_call(block, place))
            elif block.type == "thinking":
                said.thoughts.append(_text(block, "thinking", place))
            elif block.type == FOUND:
                said.texts.append(result_text([block.model_dump()], place, "messages", self.skipped))
            elif block.type in TEXTS:
                said.texts.append(part_text(block.model_dump(), place, "messages"))
            elif block.type != "redacted_thinking":
                self.skipped.part(place, block.type)
        return made + said.messages()

    def _result(self, block: Block, where: str) -> dict[str, Any]:
        content = (block.model_extra or {}).get("content")
        if block.type == RESULT and content is not None and not isinstance(content, str | list):
            raise RequestError(f"{where}.content is neither a text nor a list of blocks; send one of them", "messages")
        parts = [self._referred(part) for part in content] if isinstance(content, list) else content
        text = result_text(parts, f"{where}.content", "messages", self.skipped)
        return {"role": "tool", "tool_call_id": _text(block, "tool_use_id", where), "content": text}

    def _referred(self, part: Any) -> Any:
        """A reference to a tool is shown as the tool."""
        name = part.get("tool_name") if isinstance(part, Mapping) and part.get("type") == REFERENCE else None
        if not isinstance(name, str) or name not in self.deferred or name in self.referred:
            return part  # a second time a reference is short, so that many of them are no long prompt
        self.referred.add(name)
        return {"type": "text", "text": json.dumps(described(self.deferred[name]), ensure_ascii=False)}


@dataclass
class _Said:
    """What becomes one message of the assistant."""

    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)

    def messages(self) -> list[dict[str, Any]]:
        if not (self.texts or self.thoughts or self.calls):
            return []
        message: dict[str, Any] = {"role": "assistant", "content": "\n".join(self.texts)}
        if self.thoughts:
            message["reasoning_content"] = "\n".join(self.thoughts)
        return [message | ({"tool_calls": self.calls} if self.calls else {})]


def _field(block: Block, name: str) -> Any:
    return (block.model_extra or {}).get(name)


def _text(block: Block, name: str, where: str) -> str:
    value = _field(block, name)
    if not isinstance(value, str):
        raise RequestError(f"{where}, a content block of type {block.type!r}, needs {name}, a text", "messages")
    return value


def _call(block: Block, where: str) -> dict[str, Any]:
    given = _field(block, "input")
    if not isinstance(given, dict):
        raise RequestError(f"{where}, a content block of type {block.type!r}, needs input, an object", "messages")
    function = {"name": _text(block, "name", where), "arguments": json.dumps(given, ensure_ascii=False)}
    return {"id": _text(block, "id", where), "type": "function", "function": function}
