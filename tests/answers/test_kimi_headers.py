"""Headers of Kimi's calls, as models write them."""

import pytest
from call_texts import read_calls, tool
from required_calls import read_back
from test_parsers import parser_of, read

from hyla.answers.tools import ToolUse

SEARCH, FIVE, NOW = (tool(name, {"q": {"type": "string"}}) for name in ("web_search", "f", "now"))


def text_of(header, arguments='{"q": "x"}'):
    call = f"<|tool_call_begin|>{header}<|tool_call_argument_begin|>{arguments}<|tool_call_end|>"
    return f"<|tool_calls_section_begin|>{call}<|tool_calls_section_end|>"


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("functions.web_search:0", "web_search"),
        (" functions.web_search:12 ", "web_search"),
        ("web_search:3", "web_search"),
        ("web_search", "web_search"),
        ("functions.web_search", "web_search"),
        ("functionsweb_search3", "web_search"),
        ("functions_web_search_3", "web_search"),
        ("functions:web_search:3", "web_search"),
        ("function.web_search:3", "web_search"),
        ("functionsf5", "f"),
        ("functions.unknown:0", "unknown"),
    ],
)
def test_a_header_leads_to_a_tool_of_the_request(header, name):
    assert read_calls("kimi_k2", text_of(header), SEARCH, FIVE)[2] == [(name, {"q": "x"})]


@pytest.mark.parametrize("header", ["call00003", "call_1a2b3c", "functions", "0", "", "other:1", "a b:0", "web search"])
def test_a_header_that_names_no_tool_is_no_call(header):
    text = text_of(header)
    assert read_calls("kimi_k2", text, SEARCH, FIVE) == (text, "", [])


def test_ids_are_in_the_format_s_own_spelling():
    for header, wanted in (
        ("functionsf5", "functions.f:5"),
        ("functions.f:7", "functions.f:7"),
        ("f", "functions.f:0"),
    ):
        calls = read(parser_of("kimi_k2", tools=ToolUse((FIVE,), "auto")), [text_of(header)])[2]
        assert [call[2] for call in calls] == [wanted]


@pytest.mark.parametrize("name", ["deepseek_v3", "deepseek_v31"])
def test_deepseek_s_names_hold_no_space_either(name):
    head = "function<｜tool▁sep｜>{}\n```json\n" if name == "deepseek_v3" else "{}<｜tool▁sep｜>"
    start, end = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>", "<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    for bad in ("a b", "", "a<b"):
        text = start + head.format(bad) + "{}" + end
        assert read_calls(name, text, NOW) == (text, "", [])
    assert read_back(name, start + head.format("now") + "{}" + end, NOW) == [("now", "{}")]
