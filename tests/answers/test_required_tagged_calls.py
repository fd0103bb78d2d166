"""A required call in a tagged format is held to the tool's schema: each property, each string, and the root."""

import random

import jsonschema
import numpy as np
import pytest
from call_texts import TAGGED, argument, read_calls, strict, tool, whole
from hypothesis import given, settings
from hypothesis import strategies as st
from required_calls import accepts, matcher_of, read_back, reading_of, written
from test_tool_grammars import SPECIAL
from tiny_text import byte_tokenizer
from tool_templates import TEMPLATES

from hyla.answers import registry
from hyla.answers.call_shapes import UNSAID
from hyla.answers.tools import ToolUse
from hyla.engine import Lark
from hyla.engine.sampling.grammar import GrammarCompiler
from hyla.errors import RequestError
from hyla.server.schemas.tools import FunctionTool

STRING, NULL, INTEGER = {"type": "string"}, {"type": "null"}, {"type": "integer"}
DEFS = {"Color": {"enum": ["red", "green"]}, "Code": {"type": "string", "pattern": "^[A-Z]{2}$"}}

CASES = [
    ({"enum": ["red", "light red"]}, ["red", "light red"], ["green", "", "light"]),
    ({"enum": ["a", "1", 1, None]}, ["a", "1", None], ["b", "2"]),
    ({"const": "x"}, ["x"], ["y", "xx"]),
    ({"type": "string", "pattern": "^[a-z]+/[0-9]{2}$"}, ["ab/12"], ["ab/1", "/12", "ab/123"]),
    ({"type": "string", "pattern": "^\\p{L}+$"}, ["aö"], ["a1", ""]),
    ({"type": "string", "pattern": "b+"}, ["abba", "b"], ["a", ""]),
    ({"type": "string", "pattern": "^a|z$"}, ["ab", "yz", "a"], ["ba", ""]),
    ({"type": "string", "minLength": 2, "maxLength": 4}, ["ab", "öäüß"], ["a", "abcde", ""]),
    ({"type": "string", "maxLength": 3, "pattern": "^x*$"}, ["", "xxx"], ["xxxx", "y"]),
    ({"type": "string", "minLength": 2, "enum": ["a", "ab"]}, ["ab"], ["a"]),
    ({"$ref": "#/$defs/Color"}, ["red"], ["blue"]),
    ({"anyOf": [{"$ref": "#/$defs/Code"}, NULL]}, ["AB", None], ["abc", "A"]),
    ({"anyOf": [{"type": "string", "pattern": "^[0-9]+$"}, INTEGER]}, ["12"], ["x"]),
    ({"anyOf": [{"enum": ["auto"]}, INTEGER]}, ["auto", 5], ["other"]),
    ({"type": ["string", "array"], "items": INTEGER}, ["x", [1, 2]], ['["a"]', "[x"]),
    ({"allOf": [{"$ref": "#/$defs/Code"}, {"enum": ["AB", "abc"]}]}, ["AB"], ["abc", "CD"]),
    ({"oneOf": [STRING, INTEGER]}, ["x"], []),
    ({}, ["x", "[1", "12"], []),
    ({"type": "integer", "minimum": 3}, [3, 40], [2]),
    ({"type": "array", "items": {"$ref": "#/$defs/Color"}}, [["red"]], [["blue"]]),
    ({"type": "string", "format": "unheard-of"}, ["x"], []),
]


def rooted(name, schema):
    return FunctionTool(name=name, parameters=schema)


def own_tool(schema):
    return tool("f", {"a": schema, "b": STRING}, required=["a"], **{"$defs": DEFS})


@pytest.mark.parametrize("name", TAGGED)
@pytest.mark.parametrize(("schema", "fitting", "others"), CASES)
def test_a_value_is_held_to_its_schema(name, schema, fitting, others):
    used = own_tool(schema)
    matcher = matcher_of(name, used)
    for value in fitting:
        text = written(name, ("f", {"a": value, "b": "x"}))
        if value is None:
            text = whole(name, "f", argument(name, "a", "null", says_string=False), argument(name, "b", "x"))
        assert accepts(matcher, text), value
        assert [strict(arguments) for _, arguments in read_back(name, text, used)] == [{"a": value, "b": "x"}]
    for value in others:
        if not (name == "deepseek_v32" and schema.get("type") == ["string", "array"]):  # its tag says which it is
            assert not accepts(matcher, written(name, ("f", {"a": value, "b": "x"}))), value
    assert not accepts(matcher, written(name, ("f", {"b": "x"})))


@pytest.mark.parametrize("name", TAGGED)
def test_the_root_is_held_to_references_unions_and_conjunctions(name):
    shape = {"kind": {"const": "circle"}, "r": {"type": "number"}}
    other = {"kind": {"const": "square"}, "side": {"$ref": "#/$defs/Side"}}
    root = {
        "allOf": [{"oneOf": [{"$ref": "#/$defs/Circle"}, {"$ref": "#/$defs/Square"}]}],
        "properties": {"label": STRING},
        "required": ["label"],
        "$defs": {
            "Side": INTEGER,
            "Circle": {"type": "object", "properties": shape, "required": ["kind", "r"]},
            "Square": {"type": "object", "properties": other, "required": ["kind", "side"]},
        },
    }
    matcher = matcher_of(name, rooted("draw", root))
    good = {"label": "x", "kind": "circle", "r": 1.5}, {"label": "x", "kind": "square", "side": 2}
    bad = {"label": "x", "kind": "circle", "side": 2}, {"kind": "circle", "r": 1.5}, {"label": "x"}
    assert all(accepts(matcher, written(name, ("draw", one))) for one in good)
    assert not any(accepts(matcher, written(name, ("draw", one))) for one in bad)
    assert not accepts(matcher, written(name, ("draw", {"label": "x", "kind": "square", "side": 1.5})))


@pytest.mark.parametrize("name", TAGGED)
@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"properties": {"a": {"type": "string", "pattern": "(?=x)"}}}, "'a'.*look-around"),
        ({"properties": {"a": {"type": "string", "pattern": "x", "maxLength": 3}}}, "'a'"),
        ({"properties": {"a": {"type": "string", "not": {"const": "x"}}}}, "'not' in the property 'a'"),
        ({"properties": {"a": {"oneOf": [STRING, {"type": "string", "minLength": 2}]}}}, "oneOf.*'a'"),
        ({"properties": {"a": {"enum": ["x</parameter></｜DSML｜parameter>"]}}}, "'a' with"),
        ({"properties": {"a": {"$ref": "#/$defs/no"}}}, "'#/\\$defs/no' points to nothing"),
        ({"properties": {"a": False}, "required": ["a"]}, "no object fits"),
        ({"properties": {"a": {"enum": []}}, "required": ["a"]}, "required property 'a' that nothing fits"),
        ({"properties": {"a": STRING}, "propertyNames": {"minLength": 3}}, "'propertyNames'"),
        ({"properties": {"a": STRING}, "minProperties": 1}, "minProperties 1"),
        ({"properties": {"a": STRING, "b": STRING}, "maxProperties": 1}, "maxProperties 1"),
        ({"properties": {"a": STRING}, "if": {"required": ["a"]}, "then": {}}, "'if' at the root"),
        ({"oneOf": [{"properties": {"a": STRING}}, {"properties": {"b": STRING}}]}, "oneOf at the root"),
        ({"oneOf": [{"minLength": 1}, {"type": "object"}]}, "oneOf at the root"),
        ({"type": "array"}, "no object fits"),
        ({"properties": {"a": {"type": "string", "minLength": "x"}}}, r"a minLength that is no count \(\"x\"\)"),
        ({"properties": {"a": STRING}, "minProperties": []}, "a minProperties that is no count"),
        ({"properties": {"a": {"pattern": "\\p{L}", "enum": ["a"]}}}, "a pattern beside values in the property 'a'"),
        ({"properties": {"a": {"pattern": None}}}, r"a pattern that is none \(null\) in the property 'a'"),
        ({"properties": {"a": {"anyOf": [STRING, {"const": [1], "minItems": 2}]}}}, "values beside other keywords"),
    ],
)
def test_what_a_call_cannot_be_held_to_is_refused_by_name(name, schema, words):
    with pytest.raises(RequestError, match=f"parameters of 'f' have .*{words}") as caught:
        reading_of(name, rooted("f", schema))
    assert caught.value.param == "tools"


@pytest.mark.parametrize("name", TAGGED)
def test_properties_that_patterns_and_other_parts_decide_on(name):
    root = {
        "patternProperties": {"^x_": INTEGER},
        "allOf": [{"properties": {"gone": STRING, "x_n": {"minimum": 2}}}],
        "additionalProperties": False,
        "required": ["x_n"],
    }
    matcher = matcher_of(name, tool("f", {"b": STRING}, **root))
    assert accepts(matcher, written(name, ("f", {"b": "y", "x_n": 2})))
    assert not accepts(matcher, written(name, ("f", {"b": "y", "x_n": 1})))
    assert not accepts(matcher, written(name, ("f", {"b": "y", "x_n": 2, "gone": "x"})))


@pytest.mark.parametrize("special", [SPECIAL, (*SPECIAL, "｜DSML｜")])
def test_text_ends_at_its_closing_tag_also_where_that_is_partly_a_token_of_its_own(special):
    used = tool("f", {"a": STRING, "c": {"type": "string", "pattern": "^<b>.*$"}}, required=["a"])
    tokenizer = byte_tokenizer()
    tokenizer.backend.add_special_tokens(list(special))
    form = registry.answer_format(TEMPLATES["deepseek_v32"], special=special, encode=tokenizer.encode)
    text = form.reading("", ToolUse((used,), "required")).params["grammar"]["text"]
    grammar = GrammarCompiler(tokenizer).compile(Lark(text=text))
    for arguments, is_fine in (
        ({"a": "x"}, True),
        ({"a": "<b>x</b></i> y", "c": "<b>z"}, True),
        ({"a": "", "c": "<b>"}, True),
        ({"a": "x", "c": "z"}, False),
    ):
        ids = tokenizer.encode(written("deepseek_v32", ("f", arguments)))
        assert (grammar.num_allowed(ids) == len(ids)) == is_fine, arguments


WORDS = sorted(
    {word for schema, _, _ in CASES for word in schema} | set(UNSAID) | {"properties", "required", "minProperties"}
)
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 5)
    | st.sampled_from(["string", "object", "#/$defs/a", "#", "^a", "(", "p"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from([*WORDS, "a"]), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=150)
@given(st.sampled_from(TAGGED), st.dictionaries(st.sampled_from(WORDS), ANYTHING, max_size=2), ANYTHING, ANYTHING)
def test_any_schema_is_refused_by_name_or_can_be_written_and_every_call_is_read(name, root, first, second):
    used = rooted("f", {"type": "object", "properties": {"a": first, "b": STRING}, "$defs": {"a": second}} | root)
    try:
        reading_of(name, used)
    except RequestError as error:
        assert error.param == "tools" and "'f'" in str(error)
    call = whole(name, "f", argument(name, "a", "12"), argument(name, "b", "null"))
    assert isinstance(read_calls(name, call, used)[2][0][1], dict)


def walk(matcher, ends, seed):
    """Text that the grammar allows, at random, with a leaning to `ends`; None when it grows too long."""
    noise, made = random.Random(seed), bytearray()
    for _ in range(400):
        if matcher.is_accepting() and noise.random() < 0.7:
            return made.decode(errors="replace")
        for end in noise.sample(ends, len(ends)):
            if noise.random() < 0.3 and matcher.validate_tokens(list(end)) == len(end):
                break
        else:
            bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8), bitorder="little")
            # Id 0 is the vocabulary's end of text.
            allowed = [int(token) for token in np.flatnonzero(bits[:256]) if token]
            if not allowed:
                return made.decode() if matcher.is_accepting() else pytest.fail(f"a dead end behind {bytes(made)}")
            end = bytes([noise.choice([token for token in allowed if token < 128] or allowed)])
        assert matcher.consume_tokens(list(end)), (matcher.get_error(), bytes(made))
        made += end
    return None


@pytest.mark.parametrize("name", TAGGED)
@pytest.mark.parametrize("schema", [schema for schema, _, _ in CASES])
def test_whatever_the_grammar_allows_is_read_as_a_valid_call(name, schema):
    used = own_tool(schema)
    matcher = matcher_of(name, used)
    tags = [b"</parameter>\n", b"\n</parameter>\n", "</｜DSML｜parameter>\n".encode()]
    ends = [
        *tags,
        *(b"z" + tag for tag in tags),
        b"]",
        b"}",
        b'"',
        b"null",
        b"12",
        b"[1]",
        b"AB",
        b"ab/12",
        b"xx",
        b"true",
        b"</function>\n",
    ]
    if "\\p" in schema.get("pattern", ""):
        pytest.skip("jsonschema's patterns are Python's")
    texts = [walk(matcher.deep_copy(), ends, seed) for seed in range(12)]
    texts = [text for text in texts if text is not None]
    assert texts
    for text in texts:
        for _, arguments in read_back(name, text, used):
            jsonschema.validate(strict(arguments), used.parameters)
