"""Schemas in a grammar's words: nothing that a client sends breaks the rewriting, and its schema is not touched."""

import copy
import json
import random

import pytest
from random_schemas import random_schema

from hyla.answers.apart import are_apart
from hyla.answers.followable import Unfollowable, followable
from hyla.answers.look_ahead import without_look_ahead
from hyla.answers.patterns import Unsupported
from hyla.answers.schemas import Unfolding
from hyla.answers.words import words_of

JUNK = (
    None, True, False, 0, -1, 2.5, 1e300, "x", "", [], {}, [[]], [{}], [None], {"": {}}, {"$ref": 3}, {"$ref": "#/x"},
    {"type": [{}]}, ["a", {}], 10**30, {"not": []}, "^(", "[", "^(?=", "^(?!a", "^\\u12", "^a{2$", {"enum": 3},
    {"const": {}}, {"required": [[1]]}, {"propertyName": "a"},
    [{"properties": 3}, {"properties": {"a": 1}, "required": [{}]}],
)  # fmt: skip
KEYWORDS = (
    "type", "enum", "const", "properties", "patternProperties", "required", "items", "prefixItems", "minItems",
    "maxItems", "uniqueItems", "propertyNames", "dependentRequired", "dependencies", "oneOf", "anyOf", "allOf", "$ref",
    "$defs", "definitions", "discriminator", "minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "pattern",
    "format", "not", "if", "then", "contains", "minContains", "unevaluatedProperties", "unevaluatedItems",
    "additionalItems", "additionalProperties", "minProperties", "x-guidance", "nullable", "$id", "multipleOf",
    "minLength",
)  # fmt: skip


def parts_of(schema):
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
        waiting += part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()


def test_junk_in_a_schema_is_refused_or_left_to_the_compiler():
    for seed in range(800):
        draw = random.Random(seed)
        schema = copy.deepcopy(random_schema(draw, is_wild=True))
        if not isinstance(schema, dict):
            continue
        for _ in range(draw.randint(1, 4)):
            part = draw.choice(list(parts_of(schema)))
            part[draw.choice(KEYWORDS)] = copy.deepcopy(draw.choice(JUNK))
        before = json.dumps(schema)
        try:
            json.dumps(followable(schema))
        except Unfollowable as error:
            assert "has" in str(error)
        assert json.dumps(schema) == before


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("^a$", {"a"}),
        ("^(?:a|b)c?$", {"a", "b", "ac", "bc"}),
        (r"^[a-c]\.$", {"a.", "b.", "c."}),
        (r"^\u00e9\x61$", {"éa"}),
        ("^[ab]{1,2}$", {"a", "b", "aa", "ab", "ba", "bb"}),
        *[(pattern, None) for pattern in ("a", "^a", "^a*$", "^a|b$", "^[^a]$", r"^\w$", "^(a$", "^.$", "^a{9,}$", "")],
    ],
)
def test_the_words_of_a_pattern(pattern, words):
    assert words_of(pattern, 6) == words


@pytest.mark.parametrize("pattern", ["^(?!ab)x", "^(?!a)x|y", "^(?=a"])
def test_look_ahead_that_is_not_known_is_refused(pattern):
    with pytest.raises(Unsupported):
        without_look_ahead(pattern)


@pytest.mark.parametrize("word", ["anyOf", "oneOf", "allOf", "prefixItems"])
def test_a_long_chain_of_references_is_followed_without_recursion(word):
    chain = {f"d{n}": {word: [{"$ref": f"#/$defs/d{n + 1}"}]} for n in range(3_000)}
    followable({"$defs": {**chain, "d3000": {"type": "null"}}, "$ref": "#/$defs/d0"})


ONE = {"properties": {"k": {"const": 1}}, "required": ["k"]}
TWO = {"properties": {"k": {"const": 2}}, "required": ["k"]}
OBJECT = {"type": "object"}


@pytest.mark.parametrize(
    ("options", "is_apart"),
    [
        ([{"type": "integer"}, {"type": "string"}], True),
        ([{"type": "integer"}, {"type": "number"}], False),
        ([{"const": 3}, {"const": 3.0}], False),
        ([{"const": 1}, {"const": True}], True),
        ([{"enum": [[3]]}, {"enum": [[3.0]]}], False),
        ([{"enum": ["a", "b"]}, {"enum": ["c", None]}], True),
        ([{"enum": ["a", "b"]}, {"enum": ["c", "b"]}], False),
        ([{**OBJECT, **ONE}, {**OBJECT, **TWO}], True),
        ([ONE, TWO], False),
        ([{**ONE, "type": ["object", "null"]}, {**TWO, "type": ["object", "null"]}], False),
        ([{**OBJECT, "properties": ONE["properties"]}, {**OBJECT, **TWO}], False),
        ([{**OBJECT, **ONE}], True),
        ([{"type": "null"}, {"anyOf": [{"type": "boolean"}, {"const": None}]}], False),
    ],
)
def test_alternatives_are_apart_only_where_no_value_fits_two(options, is_apart):
    assert are_apart(options, Unfolding({})) == is_apart


def test_many_constants_are_compared_without_pairs():
    work = Unfolding({}, 5_000)
    assert are_apart([{"const": f"v{n}", "title": f"V {n}"} for n in range(2_000)], work)
    assert not are_apart([{"pattern": f"v{n}"} for n in range(2_000)], work)


def test_a_pointer_into_what_gets_another_place_still_points_there():
    schema = {"properties": {"a": {"items": [{"type": "null"}]}, "b": {"$ref": "#/properties/a/items/0"}}}
    made = followable(schema)
    name = made["properties"]["b"]["$ref"].removeprefix("#/$defs/")
    assert made["$defs"][name] == {"type": "null"}
