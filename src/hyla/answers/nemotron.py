"""Nemotron Nano 2: <TOOLCALL>[{"name": ..., "arguments": {...}}, ...]</TOOLCALL>. Nemotron 3 writes Qwen's tags."""

from __future__ import annotations

from hyla.answers import grammar
from hyla.answers.early_calls import Section
from hyla.answers.json_calls import JsonCalls
from hyla.answers.tool_format import ToolFormat

OPENING, CLOSING = "<TOOLCALL>", "</TOOLCALL>"


def _grammar(tools, mark):
    text = grammar.json_calls(tools, mark, "", "")
    body = text[text.index("body:") :]
    bodies = grammar.repeated("body", tools, grammar.quoted(", "))
    return f"start: {mark(OPENING + '[')} {bodies} {mark(']' + CLOSING)}\n{body}"


FORMAT = ToolFormat(
    name="nemotron_json",
    families=(),
    signs=(OPENING,),
    markers=(OPENING, CLOSING),
    sections=(Section(OPENING, CLOSING, ("[", "{")),),
    make=lambda tools: JsonCalls(OPENING, CLOSING),
    grammar=_grammar,
)
