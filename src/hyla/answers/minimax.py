"""MiniMax's two formats: M1 (JSON objects, one a line, between one pair of tags) and M2 (tags for each argument)."""

from __future__ import annotations

from hyla.answers import grammar, tagged_grammar
from hyla.answers.early_calls import Section
from hyla.answers.json_calls import JsonCalls
from hyla.answers.tagged_calls import TaggedCalls, Tags
from hyla.answers.tool_format import ToolFormat

OPENING, CLOSING = "<tool_calls>", "</tool_calls>"


def _m1_grammar(tools, mark):
    text = grammar.json_calls(tools, mark, "", "")
    body = text[text.index("body:") :]
    bodies = grammar.repeated("body", tools, grammar.quoted("\n"))
    return f"start: {mark(OPENING + chr(10))} {bodies} {mark(chr(10) + CLOSING)}\n{body}"


M1 = ToolFormat(
    name="minimax_m1",
    families=("minimax", "minimax_m1"),
    signs=(OPENING,),
    markers=(OPENING, CLOSING),
    sections=(Section(OPENING, CLOSING, ("{", "[")),),
    make=lambda tools: JsonCalls(OPENING, CLOSING),
    grammar=_m1_grammar,
)

TAGS = Tags(
    section=("<minimax:tool_call>", "</minimax:tool_call>"),
    call_open='<invoke name="',
    call_name_end='">',
    call_close="</invoke>",
    parameter_open='<parameter name="',
    parameter_name_end='">',
    parameter_close="</parameter>",
)

M2 = ToolFormat(
    name="minimax_m2",
    families=("minimax_m2",),
    signs=("minimax:tool_call",),
    markers=TAGS.section,
    sections=(Section(*TAGS.section, (TAGS.call_open,)),),
    make=lambda tools: TaggedCalls(TAGS, tools),
    grammar=lambda tools, mark: tagged_grammar.tagged_calls(tools, mark, TAGS),
)
