"""Calls before the reasoning is closed, in every format; mentions of a format are none."""

import pytest
from call_texts import read_calls, tool
from test_parsers import parser_of, rendered
from tool_templates import TEMPLATES

from hyla.answers.registry import TOOL_FORMATS
from hyla.answers.tools import ToolUse

WEATHER = tool("get_weather", {"city": {"type": "string"}})
NOW = tool("now", {})
OPEN = "<think>\n"
CALLS = [("get_weather", {"city": "Wil"}), ("now", {})]
SPECIAL = ("kimi_k2", "deepseek_v3", "deepseek_v31", "deepseek_v32")
MENTIONED = [name for name in TEMPLATES if name not in SPECIAL]


def written(name, calls=CALLS):
    return rendered(name, "", calls)[1].strip()


def opening(name):
    return next(form for form in TOOL_FORMATS if form.name == name).sections[0].opening


@pytest.mark.parametrize("rest", ["", "</think>", "\n</think>\n\n"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_call_in_the_reasoning_is_made_and_no_tag_is_left(name, rest):
    text = f"hmm\n{written(name)}{rest}"
    assert read_calls(name, text, WEATHER, NOW, prompt=OPEN) == ("", "hmm", CALLS)
    assert read_calls(name, f"{text}Done.", WEATHER, NOW, prompt=OPEN)[0] == (
        "Done." if rest or name in SPECIAL else ""
    )
    assert read_calls(name, OPEN + text, WEATHER, NOW) == ("", "hmm", CALLS)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_call_behind_the_reasoning_is_read_as_before(name):
    text = f"hmm</think>\n\nI look.\n{written(name)}"
    assert read_calls(name, text, WEATHER, NOW, prompt=OPEN) == ("I look.", "hmm", CALLS)


@pytest.mark.parametrize("name", MENTIONED)
def test_reasoning_goes_on_behind_a_call_until_it_is_closed(name):
    first, second = written(name, CALLS[:1]), written(name, CALLS[1:])
    text = f"hmm\n{first}\nand {second} so</think>Done."
    assert read_calls(name, text, WEATHER, NOW, prompt=OPEN) == ("Done.", "hmm\n\nand  so", CALLS)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_mention_stays_reasoning(name):
    mark = opening(name)
    other = written(name, [("unknown", {"a": "b"})])
    for words in (f"I write {mark} and then the name", f"{mark}\n", f"so {other} is what I would do", f"{mark}{mark}"):
        got = read_calls(name, f"{words}</think>\n\n{written(name)}", WEATHER, NOW, prompt=OPEN)
        assert got == ("", words.strip(), CALLS), words
        assert read_calls(name, f"{words}</think>Done.", WEATHER, NOW, prompt=OPEN) == ("Done.", words.strip(), [])
        assert read_calls(name, words, WEATHER, NOW, prompt=OPEN)[2] == []


@pytest.mark.parametrize("name", MENTIONED)
def test_half_a_call_in_the_reasoning_is_none(name):
    whole = written(name, CALLS[:1])
    half = whole[: whole.index("Wil")]
    assert read_calls(name, f"{half}</think>Done.", WEATHER, NOW, prompt=OPEN) == ("Done.", half.strip(), [])
    text, _, calls = read_calls(name, half, WEATHER, NOW, prompt=OPEN)
    assert (text, calls) == ("", [])


@pytest.mark.parametrize("name", ["hermes", "qwen_xml", "minimax_m2"])
def test_a_last_call_may_lack_the_end_of_its_section(name):
    text = written(name, CALLS[:1]).rpartition("</")[0].rstrip()
    assert read_calls(name, f"hmm {text}", WEATHER, NOW, prompt=OPEN) == ("", "hmm", CALLS[:1])


def test_a_mention_does_not_hold_the_reasoning_back():
    parser = parser_of("hermes", OPEN, ToolUse((WEATHER,), "auto"))
    assert "".join(delta.text for delta in parser.push("I write <tool_call> and")) == "I write <tool_call> and"
