"""An answer that is a call or the text that was asked for, where tools may be called and need not be."""

import json

import llguidance
import pytest
from call_texts import tool
from required_calls import ALL, accepts, text_tokenizer, vocabulary, written
from test_parsers import parser_of, read
from test_required_tagged_calls import walk
from test_tool_grammars import SPECIAL
from tool_templates import TEMPLATES

from hyla.answers import registry
from hyla.answers.constraints import choice_grammar, json_schema_grammar, regex_grammar, text_grammar
from hyla.answers.tools import ToolUse
from hyla.engine import Lark
from hyla.engine.sampling.grammar import GrammarCompiler

SCHEMA = {
    "type": "object",
    "properties": {"ok": {"$ref": "#/$defs/Yes"}},
    "required": ["ok"],
    "additionalProperties": False,
    "$defs": {"Yes": {"type": "boolean"}},
}
LOOK = tool(
    "look", {"at": {"type": "string", "pattern": "(?=x)"}, "not": {"not": {}}}, required=["at"], propertyNames={}
)
NOW = tool("now", {})


def grammar_of(name, constraint, mode="auto"):
    form = registry.answer_format(TEMPLATES[name], special=SPECIAL)
    return form.reading("", ToolUse((LOOK, NOW), mode), constraint).params["grammar"]


def matcher_of(name, constraint):
    matcher = llguidance.LLMatcher(
        vocabulary(), llguidance.LLMatcher.grammar_from_lark(grammar_of(name, constraint)["text"]), log_level=0
    )
    assert not matcher.is_error(), matcher.get_error()
    return matcher


@pytest.mark.parametrize("name", ALL)
def test_calls_of_every_format_stand_beside_a_schema(name):
    matcher = matcher_of(name, json_schema_grammar(SCHEMA))
    assert accepts(matcher, '{"ok": true}') and not accepts(matcher, '{"ok": 1}') and not accepts(matcher, "Yes.")
    # Without a required call the model is free in its arguments, whatever their schema is.
    assert accepts(matcher, written(name, ("look", {"at": "Wil"})))
    assert accepts(matcher, written(name, ("now", {})))
    assert accepts(matcher, written(name, ("look", {"not": "x", "at": "y"})))
    assert not accepts(matcher, written(name, ("other", {})))
    GrammarCompiler(text_tokenizer()).compile(Lark(text=grammar_of(name, json_schema_grammar(SCHEMA))["text"]))


@pytest.mark.parametrize("name", ALL)
def test_patterns_and_choices_too(name):
    for constraint in (choice_grammar(["a/b", "c"]), regex_grammar("a/b|c")):
        matcher = matcher_of(name, constraint)
        assert accepts(matcher, "a/b") and accepts(matcher, "c") and not accepts(matcher, "d")
        assert accepts(matcher, written(name, ("now", {})))


def test_a_grammar_of_the_client_stands_alone_and_no_constraint_is_none():
    own = text_grammar('start: "x"')
    assert grammar_of("hermes", own) == own
    assert (
        grammar_of("hermes", None) is None and grammar_of("hermes", json_schema_grammar({}), "none")["type"] != "lark"
    )


WALKED = ("hermes", "qwen_xml", "mimo", "deepseek_v32", "minimax_m1", "minimax_m2", "nemotron_json")
"""Formats without tokens of their own, which a walk over bytes does not find."""


@pytest.mark.parametrize("name", WALKED)
def test_whatever_the_grammar_allows_is_a_call_or_the_schema(name):
    matcher = matcher_of(name, json_schema_grammar(SCHEMA))
    found = set()
    for seed in range(12):
        own = matcher.deep_copy()
        start = list(b"{" if seed % 2 else written(name, ("now", {})).encode()[: 4 * seed])
        assert own.consume_tokens(start)
        ends = [
            "</｜DSML｜parameter>\n".encode(),
            b"</parameter>\n",
            b"\n</parameter>\n",
            b"true",
            b"{}",
            b'"ok"',
            b"}",
        ]
        made = walk(own, ends, seed)
        if made is not None:
            text = bytes(start).decode(errors="replace") + made
            calls = read(parser_of(name, tools=ToolUse((LOOK, NOW), "auto")), [text])[2]
            assert calls or json.loads(text)["ok"] in (True, False)
            assert all(own[0] in ("look", "now") and isinstance(json.loads(own[1]), dict) for own in calls)
            found.add(bool(calls))
    assert found == {True, False}
