"""What models get wrong in JSON arguments."""

import json

import pytest
from call_texts import read_calls, tool
from hypothesis import given
from hypothesis import strategies as st

from hyla.answers.json_text import JsonText, mended

NOTE = tool("note", {"body": {"type": "string"}, "list": {"type": "array"}})

WRONG = [
    ('{"body": "one\ntwo\tthree\r\x01"}', {"body": "one\ntwo\tthree\r\x01"}),
    ('{"body": "a\\\nb"}', {"body": "a\nb"}),
    ('{"body": "a",}', {"body": "a"}),
    ('{"list": [1, 2, ], "body": "x",\n }', {"list": [1, 2], "body": "x"}),
    ('{"list": [None, True, False,null]}', {"list": [None, True, False, None]}),
    ('{"list": [NaN, -Infinity]}', {"list": ["NaN", "-Infinity"]}),
    ('{"body": "a, ] } NaN, None \\" ,}"}', {"body": 'a, ] } NaN, None " ,}'}),
    ("null", {}),
    ("", {}),
    ("{}", {}),
]


def texts(arguments):
    """A call with these arguments in each format that writes them as JSON."""
    body = f'{{"name": "note", "arguments": {arguments or "null"}}}'
    kimi = "<|tool_calls_section_begin|><|tool_call_begin|>functions.note:0<|tool_call_argument_begin|>"
    deepseek = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>"
    ends = "<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    return {
        "hermes": f"<tool_call>\n{body}\n</tool_call>",
        "minimax_m1": f"<tool_calls>\n{body}\n</tool_calls>",
        "nemotron_json": f"<TOOLCALL>[{body}]</TOOLCALL>",
        "kimi_k2": f"{kimi}{arguments}<|tool_call_end|><|tool_calls_section_end|>",
        "deepseek_v31": f"{deepseek}note<｜tool▁sep｜>{arguments}{ends}",
        "deepseek_v3": f"{deepseek}function<｜tool▁sep｜>note\n```json\n{arguments}\n```{ends}",
    }


@pytest.mark.parametrize(("arguments", "wanted"), WRONG)
def test_arguments_that_are_nearly_json_become_json(arguments, wanted):
    for name, text in texts(arguments).items():
        assert read_calls(name, text, NOTE) == ("", "", [("note", wanted)]), name


@pytest.mark.parametrize(("arguments", "wanted"), WRONG)
def test_arguments_in_a_string_too(arguments, wanted):
    call = f'<tool_call>{{"name": "note", "arguments": {json.dumps(arguments)},}}</tool_call>'
    assert read_calls("hermes", call, NOTE)[2] == [("note", wanted)]
    late = f'<tool_call>{{"arguments": {arguments or "null"}, "name": "note"}}</tool_call>'
    assert read_calls("hermes", late, NOTE)[2] == [("note", wanted)]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, max_size=3), st.sampled_from([None, 1, "\t"]), st.booleans())
def test_valid_json_stays_as_it_is(value, indent, ascii):
    text = json.dumps(value, indent=indent, ensure_ascii=ascii)
    assert mended(text) == text


@given(st.text(alphabet='{}[]",\\ \n\tNa1e-n', max_size=30), st.integers(0, 30))
def test_a_text_cut_anywhere_is_mended_as_the_whole(text, cut):
    work = JsonText()
    assert work.push(text[:cut]) + work.push(text[cut:]) + work.finish() == whole_of(text)


def whole_of(text):
    work = JsonText()
    return work.push(text) + work.finish()


def test_a_call_that_is_cut_short_gives_all_there_is():
    assert read_calls("hermes", '<tool_call>{"name": "note", "arguments": {"list": 12', NOTE)[2] == [
        ("note", '{"list": 12')
    ]
    cut = texts('{"list": 12')["kimi_k2"].partition("<|tool_call_end|>")[0]
    assert read_calls("kimi_k2", cut, NOTE)[2] == [("note", '{"list": 12')]
