"""Kimi K2 and Kimi Linear: a section of calls, each functions.NAME:N and its arguments. The header is the call's id."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial

from hyla.answers import grammar
from hyla.answers.early_calls import Section
from hyla.answers.framed_calls import FramedCalls
from hyla.answers.tool_format import ToolFormat

SECTION = ("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>")
CALL, ARGUMENTS, END = "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"
HEADER = re.compile(r"(?:functions\.)?(.+):\d+")
LOOSE = r"(?:functions?)?[\W_]*{}[\W_]*(\d*)"
"""How else models write it: without a point, a colon or the number."""


def name_of(header: str, names: Sequence[str]) -> tuple[str, str | None]:
    """The name in a header, and the header as the call's id, in the format's own spelling. names: of the tools.

    A header that says no tool's name has none, but for one that the model has spelled out.

    >>> name_of("functions.get_weather:0", []), name_of("functionsf5", ["f"]), name_of("call00003", ["f"])
    (('get_weather', 'functions.get_weather:0'), ('f', 'functions.f:5'), ('', None))
    """
    found = HEADER.fullmatch(header)
    if found and (found[1] in names or header.startswith("functions.")):
        return found[1], header
    for name in sorted(names, key=len, reverse=True):
        loose = re.fullmatch(LOOSE.format(re.escape(name)), header)
        if loose:
            return name, f"functions.{name}:{loose[1] or 0}"
    return "", None


def _make(tools):
    names = partial(name_of, names=tools.names)
    return FramedCalls(section=SECTION, call=CALL, between=ARGUMENTS, ends=(END, SECTION[1]), name_of=names)


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
