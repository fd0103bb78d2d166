"""DeepSeek's three formats: V3 (a type, a name and fenced JSON), V3.1 (a name and JSON), V3.2 (tags, "DSML")."""

from __future__ import annotations

from hyla.answers import grammar, tagged_grammar
from hyla.answers.early_calls import Section
from hyla.answers.framed_calls import FramedCalls
from hyla.answers.tagged_calls import TaggedCalls, Tags
from hyla.answers.tool_format import ToolFormat

SECTION = ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")
CALL, SEPARATOR, END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
FENCE = "```json"


def _v3_name(header: str) -> tuple[str, str | None]:
    return header.partition(SEPARATOR)[2].strip() or header, None


def _v31_name(header: str) -> tuple[str, str | None]:
    return header, None


V3 = ToolFormat(
    name="deepseek_v3",
    families=("deepseek_v3",),
    signs=(CALL, SEPARATOR, FENCE),
    markers=(*SECTION, CALL, SEPARATOR, END),
    make=lambda tools: FramedCalls(
        section=SECTION, call=CALL, between=FENCE, ends=("```" + END, END, SECTION[1]), name_of=_v3_name
    ),
    grammar=lambda tools, mark: grammar.framed_calls(
        tools,
        mark,
        section=SECTION,
        header=lambda name: mark(f"{CALL}function{SEPARATOR}{name}\n{FENCE}\n"),
        footer="\n```" + END,
        between=grammar.quoted("\n"),
    ),
    sections=(Section(*SECTION, (CALL,), is_special=True),),
)

V31 = ToolFormat(
    name="deepseek_v31",
    families=(),
    signs=(CALL, SEPARATOR),
    unlike=(FENCE,),
    markers=(*SECTION, CALL, SEPARATOR, END),
    make=lambda tools: FramedCalls(
        section=SECTION, call=CALL, between=SEPARATOR, ends=(END, SECTION[1]), name_of=_v31_name
    ),
    grammar=lambda tools, mark: grammar.framed_calls(
        tools, mark, section=SECTION, header=lambda name: mark(f"{CALL}{name}{SEPARATOR}"), footer=END
    ),
    sections=(Section(*SECTION, (CALL,), is_special=True),),
)

DSML = "｜DSML｜"


def split_tag(inside: str) -> tuple[str, bool | None]:
    """
    >>> split_tag('city" string="true')
    ('city', True)
    """
    name, _, rest = inside.partition('"')
    said = {"true": True, "false": False}
    return name, said.get(rest.partition('string="')[2].rstrip('"'))


TAGS = Tags(
    section=(f"<{DSML}function_calls>", f"</{DSML}function_calls>"),
    call_open=f'<{DSML}invoke name="',
    call_name_end='">',
    call_close=f"</{DSML}invoke>",
    parameter_open=f'<{DSML}parameter name="',
    parameter_name_end='">',
    parameter_close=f"</{DSML}parameter>",
    split_name=split_tag,
)

V32 = ToolFormat(
    name="deepseek_v32",
    families=("deepseek_v32",),
    signs=(DSML,),
    markers=(DSML,),
    make=lambda tools: TaggedCalls(TAGS, tools),
    grammar=lambda tools, mark: tagged_grammar.tagged_calls(
        tools, mark, TAGS, tag_of=lambda name, text: f'{name}" string="{"true" if text else "false"}'
    ),
    sections=(Section(*TAGS.section, (TAGS.call_open,), is_special=True),),
)
