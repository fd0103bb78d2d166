"""Schemas with definitions, in grammars where they are no root any more."""

import pytest
from call_texts import tool
from required_calls import ALL, accepts, matcher_of, reading_of, text_tokenizer, written

from hyla.answers.lifting import Definitions
from hyla.engine import Lark
from hyla.engine.sampling.grammar import GrammarCompiler
from hyla.errors import RequestError
from hyla.server.schemas.tools import FunctionTool

NO_TYPE = {"$defs": {"a": {"properties": {"a": {"type": "integer"}}}}}
JSON_FORMATS = ("hermes", "kimi_k2", "deepseek_v3", "deepseek_v31", "minimax_m1", "nemotron_json")
COLOR = {"enum": ["red", "green"], "type": "string", "title": "Color"}
POINT = {"type": "object", "properties": {"x": {"$ref": "#/$defs/N"}, "next": {"$ref": "#/$defs/P"}}, "required": ["x"]}
PAINT = tool(
    "paint",
    {"color": {"$ref": "#/$defs/Color"}, "at": {"$ref": "#/definitions/P"}, "more": {"$ref": "#/properties/at"}},
    required=["color"],
    additionalProperties=False,
    **{"$defs": {"Color": COLOR, "N": {"type": "integer"}, "P": POINT}, "definitions": {"P": {"$ref": "#/$defs/P"}}},
)
OTHER = tool(
    "other",
    {"color": {"$ref": "#/$defs/Color"}, "deep": {"$ref": "#"}},
    additionalProperties=False,
    **{"$defs": {"Color": {"type": "integer"}, "Unused": {"not": {}}}},
)


@pytest.mark.parametrize("name", ALL)
def test_definitions_hold_in_every_format_and_each_tool_has_its_own(name):
    own = matcher_of(name, PAINT, OTHER)
    for call in (
        ("paint", {"color": "red"}),
        ("paint", {"color": "green", "at": {"x": 1, "next": {"x": 2}}, "more": {"x": 3}}),
        ("other", {"color": 3}),
        ("other", {"color": 3, "deep": {"color": 4, "deep": {}}}),
    ):
        assert accepts(own, written(name, call)), call
    for call in (
        ("paint", {"color": "red", "at": {"x": "1"}}),
        ("paint", {"color": "red", "at": {"x": 1, "next": {}}}),
        ("other", {"color": 3, "deep": {"color": "red"}}),
    ):
        assert not accepts(own, written(name, call)), call


@pytest.mark.parametrize("name", ALL)
def test_a_reference_to_nothing_is_refused_by_name(name):
    lost = tool("lost", {"a": {"type": "object", "properties": {"b": {"$ref": "#/$defs/Lost"}}}})
    with pytest.raises(RequestError, match=r"'lost'.*'#/\$defs/Lost'") as caught:
        reading_of(name, lost)
    assert caught.value.param == "tools"


@pytest.mark.parametrize("name", ALL)
def test_an_error_has_no_grammar_in_it(name):
    bad = tool("bad", {"a": {"type": "object", "patternProperties": {"^a": {"type": "null"}, "b$": {}}}})
    form = Lark(text=reading_of(name, PAINT, bad).params["grammar"]["text"])
    with pytest.raises(RequestError, match="not disjoint") as caught:
        GrammarCompiler(text_tokenizer()).compile(form)
    assert not any(part in str(caught.value) for part in ("%json", "start:", "call", "|", "paint"))


@pytest.mark.parametrize("name", ALL)
def test_arguments_are_an_object_whatever_the_root_says(name):
    for root in (
        {"properties": {"a": {"type": "integer"}}},
        {"type": ["null", "object"]},
        {"$ref": "#/$defs/a", **NO_TYPE},
    ):
        matcher = matcher_of(name, FunctionTool(name="f", parameters=root))
        assert accepts(matcher, written(name, ("f", {})))
        if name in JSON_FORMATS:
            assert not accepts(matcher, written(name, ("f", {"a": 1})).replace('{"a": 1}', "3"))
    with pytest.raises(RequestError, match="'f' have a root that no object fits"):
        reading_of(name, FunctionTool(name="f", parameters={"type": "null"}))


def test_a_counted_header_leaves_schemas_alone():
    own = tool("f", {"a": {"enum": ["x:0"]}}, required=["a"])
    matcher = matcher_of("kimi_k2", own)
    assert accepts(matcher, written("kimi_k2", ("f", {"a": "x:0"})).replace("f:0<", "f:17<"))


def test_names_that_look_like_keywords_are_left_alone():
    schema = {
        "properties": {"$ref": {"const": {"$ref": "#/x"}}, "title": {"type": "string", "title": "T"}},
        "enum": [{"$ref": "#/y"}],
        "required": ["title"],
    }
    wanted = {**schema, "properties": {**schema["properties"], "title": {"type": "string"}}}
    assert Definitions().lift(schema, schema, "f") == wanted


def test_one_definition_serves_all_who_refer_to_it():
    definitions = Definitions()
    root = {"$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}}
    assert definitions.lift({"anyOf": [{"$ref": "#/$defs/a"}] * 2}, root, "f") == {
        "anyOf": [{"$ref": "#/$defs/d0"}] * 2
    }
    assert definitions.lift({"$ref": "#/$defs/a"}, root, "g") == {"$ref": "#/$defs/d1"}
    assert definitions.found == {f"d{n}": {"items": {"$ref": f"#/$defs/d{n}"}} for n in range(2)}


@pytest.mark.parametrize("name", ALL)
def test_an_error_of_the_compiler_names_the_tool(name):
    bad = tool("bad", {"a": {"type": "object", "patternProperties": {"^a": {"type": "null"}, "b$": {}}}})
    form = Lark(text=reading_of(name, PAINT, bad).params["grammar"]["text"])
    with pytest.raises(RequestError, match=r"^the lark \('bad'\) cannot be used: .*not disjoint"):
        GrammarCompiler(text_tokenizer()).compile(form)


@pytest.mark.parametrize("name", ALL)
def test_what_no_grammar_can_follow_names_tool_and_property(name):
    bad = tool("bad", {"a": {"type": "object", "properties": {"b": {"type": "array", "uniqueItems": True}}}})
    with pytest.raises(RequestError, match=r"'bad'.*properties/b has 'uniqueItems'") as caught:
        reading_of(name, PAINT, bad)
    assert caught.value.param == "tools"
