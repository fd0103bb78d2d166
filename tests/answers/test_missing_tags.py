"""What models forget in the tagged formats: values that are not closed, and tags that are none."""

import pytest
from call_texts import TAGGED, argument, closing, opening, read_calls, tool, whole

from hyla.answers import deepseek, kimi_k2

STRING, BODY = {"type": "string"}, {"anyOf": [{"type": "string"}, {"type": "null"}]}
NOTE = tool("note", {"body": BODY, "title": STRING, "size": {"type": "integer"}})
NOW = tool("now", {})


def text_argument(name, key, text, **more):
    return argument(name, key, text, says_string=True, **more)


@pytest.mark.parametrize("key", ["body", "title"])
@pytest.mark.parametrize("name", TAGGED)
def test_a_value_ends_at_the_close_of_its_call(name, key):
    open_value = text_argument(name, key, "one\ntwo", is_closed=False)
    for text in (whole(name, "note", open_value), opening(name, "note") + open_value + closing(name)[1]):
        assert read_calls(name, text, NOTE) == ("", "", [("note", {key: "one\ntwo"})])
    again = whole(name, "note", text_argument(name, "title", "x"))
    wanted = [("note", {key: "one\ntwo"}), ("note", {"title": "x"})]
    assert read_calls(name, whole(name, "note", open_value) + "\n" + again, NOTE)[2] == wanted


@pytest.mark.parametrize("name", TAGGED)
def test_a_value_ends_at_the_next_parameter_that_the_tool_has(name):
    values = [
        text_argument(name, "body", "one", is_closed=False),
        argument(name, "size", "5", is_closed=False, says_string=False),
        text_argument(name, "title", "x"),
    ]
    wanted = {"body": "one", "size": 5, "title": "x"}
    assert read_calls(name, whole(name, "note", *values), NOTE)[2] == [("note", wanted)]


@pytest.mark.parametrize("name", TAGGED)
def test_a_call_without_its_own_close_ends_where_the_next_begins(name):
    first = opening(name, "note") + text_argument(name, "title", "x")
    assert read_calls(name, first + whole(name, "now"), NOTE, NOW)[2] == [("note", {"title": "x"}), ("now", {})]


@pytest.mark.parametrize("key", ["body", "title"])
@pytest.mark.parametrize("name", TAGGED)
def test_tags_in_a_value_are_text(name, key):
    ends = "".join(closing(name))
    values = [
        f"a {ends} b",
        f"{ends}\n{opening(name, 'other')}",
        text_argument(name, "unknown", "", is_closed=False).strip() + " c",
        text_argument(name, key, "", is_closed=False).strip() + " twice",
        "<b>x</b> </div> <tool_call> <p",
        "<parameter=a b> <parameter=",
        '<parameter name="a b">',
    ]
    for value in values:
        call = whole(name, "note", text_argument(name, key, value), argument(name, "size", "5", says_string=False))
        assert read_calls(name, call, NOTE)[2] == [("note", {key: value, "size": 5})], value


def test_a_mention_of_a_parameter_amid_a_line_is_text_where_values_stand_on_lines():
    call = whole("qwen_xml", "note", argument("qwen_xml", "body", "say <parameter=title> here"))
    assert read_calls("qwen_xml", call, NOTE)[2] == [("note", {"body": "say <parameter=title> here"})]
    inline = "<function=note><parameter=body>one<parameter=title>x</parameter></function>"
    assert read_calls("qwen_xml", inline, NOTE)[2] == [("note", {"body": "one", "title": "x"})]


@pytest.mark.parametrize("bad", ["a b", "a<b", "a\nb", "note\n", ""])
@pytest.mark.parametrize("name", TAGGED)
def test_a_name_has_no_space_and_no_tag_in_it(name, bad):
    text = f"Look: {opening(name, bad)}and more"
    assert read_calls(name, text, NOTE) == (text, "", [])
    call = whole(name, "note", text_argument(name, bad, "x"), text_argument(name, "title", "y"))
    assert read_calls(name, call, NOTE)[2] == [("note", {"title": "y"})]


@pytest.mark.parametrize("end", ["", "</tool_call>", "\n</tool_call>"])
def test_text_behind_a_call_outside_of_a_section_is_kept(end):
    text = f"<function=now></function>{end}\n\nDone."
    for name in ("qwen_xml", "mimo"):
        assert read_calls(name, text, NOW) == ("Done.", "", [("now", {})])


@pytest.mark.parametrize("name", TAGGED)
def test_a_call_that_is_cut_short_stays_open(name):
    text = opening(name, "note") + text_argument(name, "body", "one", is_closed=False)
    ((called, arguments),) = read_calls(name, text, NOTE)[2]
    assert called == "note" and isinstance(arguments, str) and not arguments.endswith("}")


KIMI, DEEPSEEK = kimi_k2.SECTION, deepseek.SECTION
FRAMED = {
    "kimi_k2": (KIMI, "<|tool_call_begin|>functions.{}:0<|tool_call_argument_begin|>", "<|tool_call_end|>"),
    "deepseek_v31": (DEEPSEEK, "<｜tool▁call▁begin｜>{}<｜tool▁sep｜>", "<｜tool▁call▁end｜>"),
    "deepseek_v3": (DEEPSEEK, "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{}\n```json\n", "\n```<｜tool▁call▁end｜>"),
}
"""By name: the section, what starts a call, and what ends it."""


@pytest.mark.parametrize("name", FRAMED)
def test_framed_arguments_end_at_the_next_call_and_at_the_end_of_the_section(name):
    (start, stop), header, end = FRAMED[name]
    note = header.format("note") + '{"title": "x"}'
    wanted = [("note", {"title": "x"}), ("now", {})]
    for text in (
        start + note + header.format("now") + "{}" + end + stop,
        start + note + end + header.format("now") + "{}" + stop,
    ):
        assert read_calls(name, text + "\nDone.", NOTE, NOW) == ("Done.", "", wanted)
