"""Qwen's tags: <tool_call><function=NAME><parameter=NAME>VALUE</parameter></function></tool_call>, values on lines of
their own. Qwen3-Coder, Qwen3.5, Nemotron 3; MiMo-V2 writes the same without the lines."""

from __future__ import annotations

from dataclasses import replace

from hyla.answers import grammar, tagged_grammar
from hyla.answers.early_calls import Section
from hyla.answers.tagged_calls import TaggedCalls, Tags
from hyla.answers.tool_format import ToolFormat

TAGS = Tags(
    section=("<tool_call>", "</tool_call>"),
    call_open="<function=",
    call_name_end=">",
    call_close="</function>",
    parameter_open="<parameter=",
    parameter_name_end=">",
    parameter_close="</parameter>",
    has_lines=True,
    call_starts_section=True,
)
MIMO_TAGS = replace(TAGS, has_lines=False)
SECTIONS = (
    Section(*TAGS.section, (TAGS.call_open,)),
    Section(TAGS.call_open, TAGS.call_close, ("",)),
)
"""A call may stand without its section."""


def _grammar(tools, mark, tags):
    """Each call is in a section of its own."""
    text = tagged_grammar.tagged_calls(tools, mark, tags)
    one, _, rest = text.partition("\n")
    body = one.removeprefix("start: ")
    section_open, _, _ = body.partition(" call")
    section = f"section: {section_open} call {mark(tags.section[1])}\n"
    return f"start: {grammar.repeated('section', tools, grammar.quoted(chr(10)))}\n{section}{rest}"


FORMAT = ToolFormat(
    name="qwen_xml",
    families=("qwen3_5", "qwen3_5_moe", "nemotron_h"),
    signs=("<function=", "<parameter="),
    markers=TAGS.section,
    sections=SECTIONS,
    make=lambda tools: TaggedCalls(TAGS, tools),
    grammar=lambda tools, mark: _grammar(tools, mark, TAGS),
)
MIMO = ToolFormat(
    name="mimo",
    families=("mimo_v2_flash", "mimo_v2"),
    # Its template writes value and closing tag without a line end between them.
    signs=("<function=", "<parameter=", "~ '</parameter>"),
    markers=TAGS.section,
    sections=SECTIONS,
    make=lambda tools: TaggedCalls(MIMO_TAGS, tools),
    grammar=lambda tools, mark: _grammar(tools, mark, MIMO_TAGS),
)
