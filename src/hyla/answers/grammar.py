"""Grammars of calls in each format, for a tool that must be called: Lark text with `%json` for schemas."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hyla.answers.call_shapes import refusal
from hyla.answers.constraints import strictly, with_bounded_space
from hyla.answers.followable import Unfollowable, followable
from hyla.answers.grammar_marks import owner_line
from hyla.answers.lifting import Definitions
from hyla.answers.patterns import slashed
from hyla.answers.schemas import kinds_of
from hyla.answers.tools import FunctionTool, ToolUse
from hyla.errors import FieldError

Marker = Callable[[str], str]
"""A marker as a Lark terminal: its text in quotes, or the special token that it is."""


def quoted(text: str) -> str:
    """A Lark string."""
    return json.dumps(text, ensure_ascii=False)


def marker_of(special: Sequence[str], ids: Mapping[str, int] | None = None) -> Marker:
    """special: tokens that a constraint names by themselves, not by their characters. ids: of those whose text is no
    name in Lark, so that their number is."""
    numbers = ids or {}

    def mark(text: str) -> str:
        parts = re.split("(" + "|".join(map(re.escape, special)) + ")", text) if special else [text]
        return " ".join(named(part) if part in special else quoted(part) for part in parts if part)

    def named(token: str) -> str:
        return f"<[{numbers[token]}]>" if token in numbers else token

    return mark


def schema_of(tool: FunctionTool, tools: ToolUse) -> dict[str, Any]:
    """What a call's arguments are held to: an object, also where the schema does not say so."""
    if not tools.is_held:
        return {"type": "object"}
    schema = tool.parameters or {"properties": {}}
    if "object" not in kinds_of(schema):
        raise refusal(tool, "a root that no object fits")
    try:
        made = followable({**schema, "type": "object"})
    except Unfollowable as error:
        raise refusal(tool, f"what no grammar can follow: {error}") from error
    if made is False:
        raise refusal(tool, "a root that no finite object fits")
    return made


def json_rule(schema: Any) -> str:
    """JSON under a schema, as the body of a rule. Raises Unfollowable."""
    return "%json " + json.dumps(strictly(with_bounded_space(followable(schema))))


def repeated(rule: str, tools: ToolUse, between: str | None = None) -> str:
    """A rule for one call or, where several are allowed, for one or more."""
    if not tools.is_parallel:
        return rule
    return f"{rule} ({between} {rule})*" if between else f"{rule}+"


def rules(named: Mapping[str, str], owners: Mapping[str, str] | None = None) -> str:
    """A grammar's text. owners: by rule, whose it is; a comment before it says so (`grammar_marks.owner_at`)."""
    lines = []
    for name, body in named.items():
        lines += [owner_line(owners[name])] if owners and name in owners else []
        lines.append(f"{name}: {body}")
    return "\n".join(lines) + "\n"


def json_calls(tools: ToolUse, mark: Marker, opening: str, closing: str, argument_key: str = "arguments") -> str:
    """A JSON object per call, each between the markers."""
    made = {"start": repeated("call", tools, quoted("\n"))}
    made["call"] = f"{mark(opening)} body {mark(closing)}"
    made["body"] = " | ".join(f"body_{n}" for n in range(len(tools.tools)))
    owners = {}
    for n, tool in enumerate(tools.tools):
        definitions = Definitions()
        own = _call_schema(tool, tools, argument_key, definitions)
        made[f"body_{n}"], owners[f"body_{n}"] = json_rule(definitions.with_root(own)), tool.name
    return rules(made, owners)


def arguments_rule(tool: FunctionTool, tools: ToolUse) -> str:
    """The arguments of a tool as JSON."""
    definitions, schema = Definitions(), schema_of(tool, tools)
    return json_rule(definitions.with_root(definitions.lift(schema, schema, tool.name)))


def _call_schema(tool: FunctionTool, tools: ToolUse, argument_key: str, definitions: Definitions) -> dict[str, Any]:
    schema = schema_of(tool, tools)
    arguments = definitions.lift(schema, schema, tool.name)
    return {
        "type": "object",
        "properties": {"name": {"const": tool.name}, argument_key: arguments},
        "required": ["name", argument_key],
        "additionalProperties": False,
    }


def framed_calls(
    tools: ToolUse,
    mark: Marker,
    *,
    section: tuple[str, str],
    header: Callable[[str], str],
    footer: str,
    between: str | None = None,
) -> str:
    """header: from a tool's name to what stands before its arguments, in Lark."""
    calls = " | ".join(f"call_{n}" for n in range(len(tools.tools)))
    made = {"start": f"{mark(section[0])} {repeated('call', tools, between)} {mark(section[1])}", "call": calls}
    owners = {}
    for n, tool in enumerate(tools.tools):
        made[f"call_{n}"] = f"{header(tool.name)} args_{n} {mark(footer)}"
        made[f"args_{n}"], owners[f"args_{n}"] = arguments_rule(tool, tools), tool.name
    return rules(made, owners)


def calls_or(calls: str, answer: str) -> str:
    """A grammar of calls, of which the answer may be another rule's text instead. answer: that rule's body."""
    return f"start: calls | answer\nanswer: {answer}\n" + re.sub(r"\Astart:", "calls:", calls)


def answer_rule(constraint: dict[str, Any]) -> str | None:
    """What an answer must look like, as a rule's body; None for a grammar, which stands alone. Raises RequestError for
    a schema that no grammar can follow."""
    if constraint["type"] == "json_schema":
        try:
            return json_rule(constraint["json_schema"])
        except Unfollowable as error:
            raise FieldError("the json schema cannot be used: {reason}", "grammar", reason=str(error)) from error
    if constraint["type"] == "regex":
        return f"/{slashed(constraint['pattern'])}/"
    return " | ".join(map(quoted, constraint["options"])) if constraint["type"] == "choice" else None
