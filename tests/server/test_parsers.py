"""Every format on what its template writes, whole and cut anywhere."""

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tool_templates import TEMPLATES

from hyla.answers import registry
from hyla.answers.protocol import PlainParser, ReasoningDelta, TextDelta
from hyla.answers.thinking import THINK, ThinkingParser
from hyla.answers.tools import ToolUse
from hyla.checkpoints.chat_template import ChatTemplate
from hyla.errors import ConfigError, RequestError
from hyla.server.reading.conversation import message_for_template
from hyla.server.schemas.tools import FunctionTool

PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "deep": {"type": "object"},
        "list": {"type": "array"},
        "flag": {"type": "boolean"},
    },
    "required": ["city"],
}
TOOLS = ToolUse((FunctionTool(name="get_weather", parameters=PARAMETERS), FunctionTool(name="now")), "auto")

CALLS = [
    ("get_weather", {"city": "Sankt Gallen", "days": 3}),
    ("now", {}),
    ("get_weather", {"city": 'é"\\ {<b>}\n two', "deep": {"a": [1, {"b": "}]"}]}, "list": [], "flag": True}),
]


def message(text, calls, reasoning=None):
    made = [
        {
            "id": f"functions.{name}:{n}",
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)},
        }
        for n, (name, arguments) in enumerate(calls)
    ]
    more = {"reasoning_content": reasoning} if reasoning else {}
    return {"role": "assistant", "content": text, **more, **({"tool_calls": made} if made else {})}


def rendered(name, text, calls, reasoning=None, *, is_open=False):
    """(prompt, the answer as the template writes it)."""
    template = ChatTemplate(TEMPLATES[name])
    asked = [{"role": "user", "content": "hi"}]
    names = {"tools": None, "enable_thinking": is_open}
    prompt = template.render(asked, add_generation_prompt=True, **names)
    done = [*asked, message_for_template(message(text, calls, reasoning))]
    whole = template.render(done, add_generation_prompt=False, **names)
    assert whole.startswith(prompt) and whole.endswith("<|im_end|>\n")
    return prompt, whole[len(prompt) : -len("<|im_end|>\n")]


def read(parser, pieces):
    """(text, reasoning, [(name, arguments text)]) of pieces."""
    text, reasoning, calls = "", "", []
    deltas = [delta for piece in pieces for delta in parser.push(piece)]
    for delta in [*deltas, *parser.finish()]:
        if isinstance(delta, TextDelta):
            text += delta.text
        elif isinstance(delta, ReasoningDelta):
            reasoning += delta.text
        elif delta.name is not None:
            assert delta.index == len(calls)
            calls.append([delta.name, delta.arguments, delta.call_id])
        else:
            calls[delta.index][1] += delta.arguments
    return text, reasoning, calls


def parser_of(name, prompt="", tools=TOOLS):
    form = registry.answer_format(TEMPLATES[name])
    assert form.names() == {"tools": name, "reasoning": "think"}
    return form.reading(prompt, tools).parser()


def pieces_of(text, cuts):
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[a:b] for a, b in pairwise(places)]


@pytest.mark.parametrize("reasoning", [None, "let me\n\nthink"])
@pytest.mark.parametrize("text", ["", "I look."])
@pytest.mark.parametrize("name", TEMPLATES)
def test_what_the_template_writes_is_read_back(name, text, reasoning):
    is_open = reasoning is not None
    prompt, answer = rendered(name, text, CALLS, reasoning, is_open=is_open)
    for pieces in ([answer], list(answer), pieces_of(answer, range(0, len(answer), 7))):
        got_text, got_reasoning, calls = read(parser_of(name, prompt), pieces)
        assert (got_text, got_reasoning) == (text, reasoning or "")
        assert [(own[0], json.loads(own[1])) for own in calls] == CALLS
    ids = [own[2] for own in calls]
    assert ids == ([f"functions.{own}:{n}" for n, (own, _) in enumerate(CALLS)] if name == "kimi_k2" else [None] * 3)


@pytest.mark.parametrize("name", TEMPLATES)
def test_text_without_a_call_is_left_alone(name):
    for text in (" plain text \n", "a < b {x} [y] <tool", "", "\n\n"):
        assert read(parser_of(name), list(text)) == (text, "", [])


FRAGMENTS = st.sampled_from(
    [
        "<tool_call>", "</tool_call>", "<function=f>", "<parameter=a>", "</parameter>", "</function>", "```",
        "<|tool_calls_section_begin|>", "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "functions.f:0", "1",
        "<|tool_call_end|>", "<|tool_calls_section_end|>", "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "true",
        "<｜tool▁sep｜>", "```json", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>", "</｜DSML｜invoke>", "</think>",
        "<｜DSML｜function_calls>", '<｜DSML｜invoke name="f">', '<｜DSML｜parameter name="a" string="true">',
        "</｜DSML｜parameter>", "</｜DSML｜function_calls>", "</TOOLCALL>", "<tool_calls>", "</tool_calls>", "{", "}",
        "<TOOLCALL>", "<think>",
        "<minimax:tool_call>", "</minimax:tool_call>", '<invoke name="f">', '<parameter name="a">', "</invoke>",
        '{"name": "f", "arguments": {"a": [1, "}"]}}', '{"name": "f", "arguments": "{\\"a\\": 1}"}', ",", '"', "\\",
        '{"arguments": {"a": 1}, "name": "g"}', '{"name": "f"', ', "arguments": ', "\n", " ", "x", "<", ">",
        "[", "]",
    ]
)  # fmt: skip


@settings(max_examples=60)
@given(st.sampled_from(sorted(TEMPLATES)), st.lists(FRAGMENTS, max_size=14), st.lists(st.integers(0, 400), max_size=9))
def test_a_text_cut_anywhere_is_read_as_the_whole(name, fragments, cuts):
    text = "".join(fragments)
    whole = read(parser_of(name), [text])
    assert read(parser_of(name), list(text)) == whole
    assert read(parser_of(name), pieces_of(text, cuts)) == whole


@pytest.mark.parametrize("name", TEMPLATES)
def test_an_answer_that_ends_early_gives_what_there_is(name):
    _, answer = rendered(name, "Look.", CALLS[:1])
    for end in range(len(answer) + 1):
        text, _, calls = read(parser_of(name), [answer[:end]])
        assert text.startswith("Look."[:end]) and len(calls) <= 1
        assert not calls or calls[0][0] == "get_weather"


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ('<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>', [("f", {"a": 1})]),
        ('<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', [("f", {"a": 1})]),
        ('<tool_call>{"name": "f"}</tool_call>', [("f", {})]),
        (
            '<tool_call>{"name": "f", "parameters": {"a": null}}<tool_call>{"name": "g"}',
            [("f", {"a": None}), ("g", {})],
        ),
        ('<tool_call>{"name": "f", "arguments": {"a": "</tool_call>"}}</tool_call>', [("f", {"a": "</tool_call>"})]),
    ],
)
def test_unusual_json_calls_are_read(text, calls):
    for pieces in ([text], list(text)):
        shown, _, found = read(parser_of("hermes"), pieces)
        assert shown == "" and [(own[0], json.loads(own[1])) for own in found] == calls


@pytest.mark.parametrize("text", ["<tool_call>nothing</tool_call>", "<tool_call>{}</tool_call> more", "<tool_call>{"])
def test_a_section_without_a_call_is_text(text):
    for pieces in ([text], list(text)):
        assert read(parser_of("hermes"), pieces) == (text, "", [])


def test_the_schema_says_what_is_a_string():
    text = (
        "<function=get_weather><parameter=city>\n12\n</parameter><parameter=days>\n12\n</parameter>"
        "<parameter=flag>\nTrue\n</parameter><parameter=deep>\nnot json\n</parameter>"
        "<parameter=other>\n[1]\n</parameter></function>"
    )
    _, _, calls = read(parser_of("qwen_xml"), list(text))
    wanted = {"city": "12", "days": 12, "flag": True, "deep": "not json", "other": [1]}
    assert json.loads(calls[0][1]) == wanted


def test_arguments_stream_before_the_call_is_over():
    for name in TEMPLATES:
        _, answer = rendered(name, "", [("get_weather", {"city": "Sankt Gallen am See"})])
        parser = parser_of(name)
        given = "".join(getattr(delta, "arguments", "") for delta in parser.push(answer[: answer.index(" am See")]))
        assert given.endswith("Sankt Gallen"), name


@pytest.mark.parametrize(
    ("text", "is_open", "wanted"),
    [
        ("a</think>\n\nb", True, ("b", "a")),
        ("\n a \n</think>b\n", True, ("b\n", "a")),
        ("<think>a</think>b", False, ("b", "a")),
        ("\n<think>\na\n</think>\n\nb", False, ("b", "a")),
        (" b <think>a</think>", False, (" b <think>a</think>", "")),
        ("a", True, ("", "a")),
        ("<th", False, ("<th", "")),
        ("</think>b", True, ("b", "")),
    ],
)
def test_reasoning_stands_apart(text, is_open, wanted):
    for pieces in ([text], list(text)):
        parser = ThinkingParser(THINK, PlainParser(), is_open=is_open)
        assert read(parser, pieces)[:2] == wanted


def test_a_section_of_special_tokens_ends_the_reasoning():
    _, answer = rendered("kimi_k2", "", CALLS[:1])
    text, reasoning, calls = read(parser_of("kimi_k2", "<think>\n"), list("hmm " + answer))
    assert (text, reasoning, len(calls)) == ("", "hmm", 1)


def test_parsers_are_found_by_family_by_name_and_refused_by_name():
    assert registry.answer_format("{{ tools }}", model_type="bailing_hybrid").names()["tools"] == "hermes"
    assert registry.answer_format("no such word", model_type="bailing_hybrid").names()["tools"] is None
    named = registry.answer_format(TEMPLATES["hermes"], "minimax_m2", "none").names()
    assert named == {"tools": "minimax_m2", "reasoning": None}
    with pytest.raises(ConfigError, match="--tool-parser 'hermse' is not known; choose one of"):
        registry.answer_format("", "hermse")
    with pytest.raises(RequestError, match="--tool-parser"):
        registry.answer_format("").reading("", TOOLS)


NO_LIMITS = {"grammar": None, "thinking_budget": None}


def test_a_format_of_special_tokens_asks_to_see_them():
    form = registry.answer_format(TEMPLATES["kimi_k2"], special=("<|tool_call_begin|>",))
    assert form.reading("", TOOLS).params == NO_LIMITS | {"skip_special_tokens": False}
    assert form.reading("", ToolUse()).params == NO_LIMITS


@pytest.mark.parametrize("mode", ["required", "auto"])
def test_a_required_call_is_a_grammar_and_an_optional_one_is_not(mode):
    form = registry.answer_format(TEMPLATES["hermes"], encode=lambda text: list(text.encode()))
    params = form.reading("<think>\n", ToolUse(TOOLS.tools, mode)).params
    assert (params["grammar"] is None) == (mode == "auto")
    assert params["thinking_start_ids"] == tuple(b"<think>") and params["thinking_end_ids"] == tuple(b"</think>")
    if params["grammar"] is not None:
        assert params["grammar"]["type"] == "lark" and "get_weather" in params["grammar"]["text"]
