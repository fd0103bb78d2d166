"""Where a grammar allows nothing more: found when it is compiled, gone round, or the end of that choice alone."""

import json
import random

import jsonschema
import numpy as np
import pytest
from random_schemas import random_schema
from tiny_text import END, byte_tokenizer, tiny_model

from hyla.answers.constraints import with_bounded_space
from hyla.engine import Engine, JsonSchema, Regex, SamplingParams
from hyla.engine.sampling import grammar as grammars
from hyla.engine.sampling.grammar import GrammarCompiler
from hyla.errors import RequestError

COMPILER = GrammarCompiler(byte_tokenizer())
VOCAB = 259
CLOSERS = frozenset(b'"}],:0')


def walked(schema, seed, most=300, *, likes=CLOSERS):
    """(text, whether it is whole) that a random writer makes of a schema; fails at a dead end."""
    grammar = COMPILER.compile(JsonSchema(json_schema=with_bounded_space(schema)))
    draw, text = random.Random(seed), bytearray()
    for _ in range(most):
        allowed = np.flatnonzero(grammar.mask(VOCAB))
        if grammar.is_accepting and (not len(allowed) or draw.random() < 0.3):
            return bytes(text), True
        assert len(allowed), (schema, bytes(text), grammar.problem)
        liked = [token for token in allowed if token in likes]
        token = int(draw.choice(liked if liked and draw.random() < 0.5 else list(allowed)))
        text.append(token)
        grammar.advance(token)
    return bytes(text), False


def check_random_schemas(first_seed, count):
    """How many of them ended in an answer, which is valid, and how many were refused."""
    finished = refused = 0
    for seed in range(first_seed, first_seed + count):
        schema = random_schema(random.Random(seed), is_wild=seed % 3 == 0)
        try:
            text, is_whole = walked(schema, seed)
        except (RequestError, ValueError):
            refused += 1
            continue
        if is_whole:
            check(text, schema)
            finished += 1
    return finished, refused


def check(text, schema):
    """The text is valid JSON under the schema, if that itself is one of the draft's."""
    value = json.loads(text)
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError:
        return
    jsonschema.Draft202012Validator(schema).validate(value)


def test_what_random_schemas_let_through_is_valid():
    finished, refused = check_random_schemas(0, 300)
    assert finished > 100 and refused > 30


@pytest.mark.slow
def test_what_ten_thousand_random_schemas_let_through_is_valid():
    finished, refused = check_random_schemas(1_000, 10_000)
    print(f"{finished} finished, {refused} refused")
    assert finished > 2_000


NAMED = {"a": {"type": "integer"}}


@pytest.mark.parametrize("pattern", ["^a$", "^(?:a)$", r"^\u0061$", "^[a]{1}$", "^(a|a)$"])
def test_a_pattern_of_names_that_are_all_taken_is_no_dead_end(pattern):
    schema = {"properties": NAMED, "patternProperties": {pattern: {"minimum": 3}}, "additionalProperties": False}
    grammar = COMPILER.compile(JsonSchema(json_schema={"type": "object", **schema}))
    for token in b'{"a":37':
        assert grammar.num_allowed([token]) == 1
        grammar.advance(token)
    assert not grammar.num_allowed(b",") and grammar.num_allowed(b"}")


def test_a_property_without_a_finite_value_is_left_out():
    chain = {"type": "object", "properties": {"next": {"$ref": "#/$defs/chain"}}, "required": ["next"]}
    schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/chain"}, "b": {"$ref": "#/$defs/loop"}}}
    schema |= {"additionalProperties": False, "$defs": {"chain": chain, "loop": {"$ref": "#/$defs/loop"}}}
    for seed in range(20):
        assert json.loads(walked(schema, seed)[0]) == {}
    with pytest.raises(RequestError, match="required property 'a' is unsatisfiable"):
        COMPILER.compile(JsonSchema(json_schema={**schema, "required": ["a"]}))


def test_a_name_is_not_written_in_another_spelling():
    schema = {"type": "object", "properties": NAMED, "additionalProperties": {"type": "null"}}
    grammar = COMPILER.compile(JsonSchema(json_schema=schema))
    for token in b'{"\\':
        assert grammar.num_allowed([token]) == 1
        grammar.advance(token)
    assert not grammar.num_allowed(b"u")


def test_a_long_string_outlives_the_states_of_its_compilation(monkeypatch):
    monkeypatch.setitem(grammars.LIMITS, "max_lexer_states", 3_000)
    grammar = COMPILER.compile(JsonSchema(json_schema={"type": "string", "maxLength": 1_500}))
    draw = random.Random(1)
    for token in b'"' + bytes(draw.choice(b"abcdefg") for _ in range(1_500)) + b'"':
        assert grammar.mask(VOCAB)[token], grammar.problem
        grammar.advance(token)
    assert grammar.is_complete


def test_a_copy_outlives_them_too_and_agrees(monkeypatch):
    monkeypatch.setitem(grammars.LIMITS, "max_lexer_states", 3_000)
    grammar = COMPILER.compile(JsonSchema(json_schema={"type": "string", "maxLength": 1_500}))
    for place, token in enumerate(b'"' + b"xyz" * 490):
        mask = grammar.mask(VOCAB)
        if place % 100 == 0:
            assert (grammar.ahead().copy().mask(VOCAB) == mask).all()
        grammar.advance(token)
    assert grammar.problem is None


@pytest.fixture(scope="module")
def engine():
    return Engine(tiny_model(), tokenizer=byte_tokenizer(), memory=24 << 20, max_num_sequences=4)


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        ({"grammar": Regex(pattern="abc"), "allowed_token_ids": list(b"ab")}, "the grammar allows no token"),
        ({"allowed_token_ids": [97], "bad_words": ((97, 97, 97),)}, "loosen allowed_token_ids"),
    ],
)
def test_a_choice_that_its_rules_leave_without_a_token_ends_alone(engine, rules, why):
    plain = SamplingParams(max_tokens=6, temperature=0.0, ignore_eos=True)
    (alone,) = engine.generate([(5, 6)], plain)
    held = SamplingParams(max_tokens=6, temperature=0.0, **rules)
    ended, beside = engine.generate([(5, 6), (5, 6)], [held, plain])
    assert (ended.finish_reason, len(ended.token_ids)) == ("dead_end", 2) and why in ended.error
    assert (beside.finish_reason, beside.token_ids) == ("length", alone.token_ids)
    assert END not in beside.token_ids
    engine.cache.ledger.check()
