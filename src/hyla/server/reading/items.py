"""Input items of /v1/responses as chat messages: calls and reasoning join the assistant message that they belong to.

Items are what OpenAI's own server would have answered, so they may tell of tools that there are none of here. A call
with its output is shown as any other; what nobody here can read is left out, and said (`reading.skipped`).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hyla.errors import RequestError
from hyla.server.reading.content import text_of
from hyla.server.reading.functions import full_name
from hyla.server.reading.mistakes import short
from hyla.server.reading.results import data_text, result_text
from hyla.server.reading.skipped import Skipped
from hyla.server.schemas.responses import AnyItem, InputItem

CALL, OUTPUT = "_call", "_output"
"""The ends of the names of items that call a tool, and that a tool gave."""
ARGUMENTS, NAMED_ARGUMENTS = ("arguments", "action", "operation"), ("code", "queries", "input")
"""Where the call of a hosted tool has its arguments: all of them, or one each."""
RESULTS = ("output", "error", "results", "outputs")
"""Where it has what came back, unless that is an item of its own."""
SEAL = "hyla:"
"""The beginning of reasoning that this server has sealed."""


def sealed(reasoning: str) -> str:
    """Reasoning for clients that keep it for the server and do not read it. It is no secret: they may."""
    return SEAL + base64.b64encode(reasoning.encode()).decode()


def unsealed(text: Any) -> str | None:
    """What `sealed` was given; None for anything else, such as what another server has encrypted."""
    if not isinstance(text, str) or not text.startswith(SEAL):
        return None
    try:
        return base64.b64decode(text.removeprefix(SEAL), validate=True).decode()
    except ValueError:
        return None


@dataclass
class ItemReader:
    """kept: finds an item of an earlier answer by its id."""

    skipped: Skipped
    kept: Callable[[str], Mapping[str, Any] | None]
    made: list[dict[str, Any]] = field(default_factory=list)
    _answered: frozenset[str] = field(default=frozenset(), init=False)

    def read(self, given: Sequence[AnyItem]) -> list[dict[str, Any]]:
        """The messages of all items but those of tools. Raises RequestError for an item that lacks what it needs."""
        items = {n: item for n, item in enumerate(given) if isinstance(item, InputItem)}
        outputs = (_call_id(_fields(item)) for item in items.values() if (item.type or "").endswith(OUTPUT))
        self._answered = frozenset(name for name in outputs if isinstance(name, str))
        for n, item in items.items():
            self._add(item, f"input[{n}]")
        return self.made

    def _add(self, item: InputItem, where: str) -> None:
        kind, fields = item.type or "message", _fields(item)
        if kind == "message":
            self._message(item, where)
        elif kind == "function_call":
            name = full_name(fields.get("namespace"), _text(fields, "name", where, kind))
            self._call(_text(fields, "call_id", where, kind), name, _text(fields, "arguments", where, kind))
        elif kind == "custom_tool_call":
            given = {"input": _text(fields, "input", where, kind)}
            name = _text(fields, "name", where, kind)
            self._call(_text(fields, "call_id", where, kind), name, json.dumps(given, ensure_ascii=False))
        elif kind.endswith(CALL):
            self._hosted_call(fields, kind, where)
        elif kind.endswith(OUTPUT):
            self._output(fields, kind, where)
        elif kind == "reasoning":
            self._reasoning(item, where)
        elif kind == "item_reference":
            self._referred(fields, where)
        elif item.content is not None:
            message = (
                f"{where} is an item of type {short(kind)}, which is not known here; send its content as a message"
            )
            raise RequestError(message, "input")
        else:
            self.skipped.part(where, kind)

    def _message(self, item: InputItem, where: str) -> None:
        if item.role is None:
            raise RequestError(f"{where} is a message without its role; add it", "input")
        content = text_of(item.content, f"{where}.content", "input")
        last = self.made[-1] if self.made else {}
        if item.role == "assistant" and last.get("role") == "assistant" and not last.get("content"):
            last["content"] = content
        else:
            self.made.append({"role": item.role, "content": content})

    def _call(self, call_id: str, name: str, arguments: str) -> None:
        """A call of the assistant message at the end, a new one if there is none."""
        if not self.made or self.made[-1]["role"] != "assistant":
            self.made.append({"role": "assistant", "content": ""})
        called = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        self.made[-1].setdefault("tool_calls", []).append(called)

    def _hosted_call(self, fields: Mapping[str, Any], kind: str, where: str) -> None:
        """A call of a tool that was another server's, or is of a form of its own, if what it gave is told."""
        call_id = _call_id(fields)
        own = next((fields[name] for name in RESULTS if fields.get(name)), None)
        if not isinstance(call_id, str) or (own is None and call_id not in self._answered):
            self.skipped.part(where, kind)
            return
        given = next((fields[name] for name in ARGUMENTS if fields.get(name)), None)
        given = given or {name: fields[name] for name in NAMED_ARGUMENTS if name in fields}
        name = fields.get("name")
        name = name if isinstance(name, str) and name else kind.removesuffix(CALL)
        self._call(call_id, name, given if isinstance(given, str) else data_text(given))
        if own is not None:
            self._result(call_id, own, where)

    def _output(self, fields: Mapping[str, Any], kind: str, where: str) -> None:
        output = fields.get("output")
        if kind == "function_call_output" and not isinstance(output, str | list):
            raise RequestError(f"{where} needs output, a text or a list of parts", "input")
        if output is None:
            output = {name: value for name, value in fields.items() if name not in ("id", "call_id", "status")}
        call_id = _call_id(fields) if kind != "function_call_output" else None
        self._result(call_id or _text(fields, "call_id", where, kind), output, where)

    def _result(self, call_id: str, output: Any, where: str) -> None:
        text = result_text(output, f"{where}.output", "input", self.skipped)
        self.made.append({"role": "tool", "tool_call_id": call_id, "content": text})

    def _reasoning(self, item: InputItem, where: str) -> None:
        """Its text, or the text that this server has sealed, or the summary that it has."""
        fields = _fields(item)
        text = _texts(item.content) or unsealed(fields.get("encrypted_content")) or _texts(fields.get("summary"))
        if text:
            self.made.append({"role": "assistant", "content": "", "reasoning_content": text})
        elif fields.get("encrypted_content"):
            self.skipped.part(where, "reasoning")

    def _referred(self, fields: Mapping[str, Any], where: str) -> None:
        name = fields.get("id")
        found = self.kept(name) if isinstance(name, str) else None
        if found is None:
            self.skipped.part(where, "item_reference")
        else:
            self._add(InputItem.model_validate(found), where)


def _fields(item: InputItem) -> dict[str, Any]:
    return item.model_extra or {}


def _call_id(fields: Mapping[str, Any]) -> str | None:
    """Outputs of some tools name their call as their own id."""
    return next(
        (value for value in (fields.get("call_id"), fields.get("id")) if isinstance(value, str) and value), None
    )


def _texts(parts: Any) -> str:
    given = [part.get("text") for part in parts if isinstance(part, Mapping)] if isinstance(parts, list) else []
    return "\n".join(text for text in given if isinstance(text, str))


def _text(fields: Mapping[str, Any], name: str, where: str, kind: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise RequestError(f"{where}, an item of type {short(kind)}, needs {name}, a text", "input")
    return value
