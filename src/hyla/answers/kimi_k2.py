"""Kimi K2 and Kimi Linear: a section of calls, each functions.NAME:N and its arguments. The header is the call's id."""

from __future__ import annotations

import re

from hyla.answers import grammar
from hyla.answers.early_calls import Section
from hyla.answers.framed_calls import FramedCalls
from hyla.answers.tool_format import ToolFormat

SECTION = ("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>")
CALL, ARGUMENTS, END = "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"
HEADER = re.compile(r"(?:functions\.)?(.+):\d+")


def name_of(header: str) -> tuple[str, str | None]:
    """
    >>> name_of(" functions.get_weather:0 ")
    ('get_weather', 'functions.get_weather:0')
    """
    call_id = header.strip()
    found = HEADER.fullmatch(call_id)
    return (found[1], call_id) if found else (call_id, None)


def _make(tools):
    return FramedCalls(section=SECTION, call=CALL, between=ARGUMENTS, ends=(END, SECTION[1]), name_of=name_of)


FORMAT = ToolFormat(
    name="kimi_k2",
    families=("kimi_linear", "kimi_k2"),
    signs=(CALL, ARGUMENTS),
    markers=(*SECTION, CALL, ARGUMENTS, END),
    make=_make,
    # The model counts its calls; a grammar that counted them would need a rule for each.
    grammar=lambda tools, mark: grammar.framed_calls(
        tools,
        mark,
        section=SECTION,
        header=lambda name: f"{mark(f'{CALL}functions.{name}:')} /[0-9]+/ {mark(ARGUMENTS)}",
        footer=END,
    ),
    sections=(Section(*SECTION, (CALL,), is_special=True),),
)
