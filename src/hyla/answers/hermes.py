"""Hermes: <tool_call>{"name": ..., "arguments": {...}}</tool_call>, one for each call. Qwen2.5, Qwen3, Qwen3-Next, Ling
and Ring."""

from __future__ import annotations

from hyla.answers import grammar
from hyla.answers.early_calls import Section
from hyla.answers.json_calls import JsonCalls
from hyla.answers.tool_format import ToolFormat

OPENING, CLOSING = "<tool_call>", "</tool_call>"

FORMAT = ToolFormat(
    name="hermes",
    families=("qwen3", "qwen3_moe", "qwen3_next", "bailing_moe_v2", "bailing_moe_linear", "bailing_hybrid"),
    signs=("<tool_call>",),
    unlike=("<function=", "<arg_key>"),
    markers=(OPENING, CLOSING),
    sections=(Section(OPENING, CLOSING, ("{",)),),
    make=lambda tools: JsonCalls(OPENING, CLOSING),
    grammar=lambda tools, mark: grammar.json_calls(tools, mark, OPENING + "\n", "\n" + CLOSING),
)
