"""Grammars of calls in each format, for a tool that must be called: Lark text with `%json` for schemas."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from hyla.answers.constraints import with_bounded_space
from hyla.answers.lifting import Definitions
from hyla.answers.schemas import properties_of, wanted_of
from hyla.answers.tagged_calls import Tags
from hyla.answers.tools import FunctionTool, ToolUse

Marker = Callable[[str], str]
"""A marker as a Lark terminal: its text in quotes, or the special token that it is."""


def quoted(text: str) -> str:
    """A Lark string."""
    return json.dumps(text, ensure_ascii=False)


def text_until(end: str) -> str:
    """Any text with `end` behind it, as the terminal of a lazy rule."""
    return "/(?s:.*)" + re.escape(end).replace("\\\n", r"\n").replace("/", r"\/") + "/"


def marker_of(special: Sequence[str]) -> Marker:
    """special: tokens that a constraint names by themselves, not by their characters."""

    def mark(text: str) -> str:
        parts = re.split("(" + "|".join(map(re.escape, special)) + ")", text) if special else [text]
        return " ".join(part if part in special else quoted(part) for part in parts if part)

    return mark


def schema_of(tool: FunctionTool) -> dict[str, Any]:
    return tool.parameters or {"type": "object", "properties": {}}


def json_rule(schema: Any) -> str:
    """JSON under a schema, as the body of a rule."""
    return "%json " + json.dumps(with_bounded_space(schema))


def repeated(rule: str, tools: ToolUse, between: str | None = None) -> str:
    """A rule for one call or, where several are allowed, for one or more."""
    if not tools.is_parallel:
        return rule
    return f"{rule} ({between} {rule})*" if between else f"{rule}+"


def rules(**named: str) -> str:
    return "\n".join(f"{name}: {body}" for name, body in named.items()) + "\n"


def json_calls(tools: ToolUse, mark: Marker, opening: str, closing: str, argument_key: str = "arguments") -> str:
    """A JSON object per call, each between the markers."""
    made = {"start": repeated("call", tools, quoted("\n"))}
    made["call"] = f"{mark(opening)} body {mark(closing)}"
    definitions = Definitions()
    calls = [_call_schema(tool, argument_key, definitions) for tool in tools.tools]
    made["body"] = json_rule(definitions.with_root({"anyOf": calls}))
    return rules(**made)


def arguments_rule(tool: FunctionTool) -> str:
    """The arguments of a tool as JSON."""
    definitions = Definitions()
    return json_rule(definitions.with_root(definitions.lift(schema_of(tool), schema_of(tool), tool.name)))


def _call_schema(tool: FunctionTool, argument_key: str, definitions: Definitions) -> dict[str, Any]:
    arguments = definitions.lift(schema_of(tool), schema_of(tool), tool.name)
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
    for n, tool in enumerate(tools.tools):
        made[f"call_{n}"] = f"{header(tool.name)} args_{n} {mark(footer)}"
        made[f"args_{n}"] = arguments_rule(tool)
    return rules(**made)


def tagged_calls(tools: ToolUse, mark: Marker, tags: Tags, *, tag_of: Callable[[str, bool], str] | None = None) -> str:
    """tag_of: from a parameter's name, and whether it is a string, to what stands in its tag."""
    line = "\n" if tags.has_lines else ""
    calls = " | ".join(f"call_{n}" for n in range(len(tools.tools)))
    # Line ends belong to what stands before them: the lexer takes the longest terminal and never goes back.
    opening, closing = mark(tags.section[0] + "\n"), mark(tags.section[1])
    made = {"start": f"{opening} {repeated('call', tools)} {closing}", "call": calls}
    for n, tool in enumerate(tools.tools):
        schema = schema_of(tool)
        properties, required = properties_of(schema), schema.get("required")
        required = required if isinstance(required, list) else []
        parts = []
        for place, (name, parameter) in enumerate(properties.items()):
            rule = f"p_{n}_{place}"
            wanted = wanted_of(parameter, schema)
            text = "string" in wanted.kinds and (wanted.values is None or wanted.is_text)
            tag = tags.parameter_open + (tag_of(name, text) if tag_of else name) + tags.parameter_name_end
            made[rule] = f"{mark(tag + line)} v_{n}_{place}"
            # A string ends where its closing tag begins, so the tag is part of the lazy terminal.
            end = line + tags.parameter_close + "\n"
            if text:
                made[f"v_{n}_{place}[lazy]"] = text_until(end)
            else:
                made[f"v_{n}_{place}"] = f"json_{n}_{place} {mark(end)}"
                definitions = Definitions()
                moved = definitions.lift(parameter, schema, tool.name)
                made[f"json_{n}_{place}"] = json_rule(definitions.with_root(moved))
            parts.append(rule if name in required else f"{rule}?")
        opening = mark(tags.call_open + tool.name + tags.call_name_end + "\n")
        made[f"call_{n}"] = f"{opening} {' '.join(parts)} {mark(tags.call_close + chr(10))}"
    return rules(**made)
