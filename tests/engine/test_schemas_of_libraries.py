"""Schemas as pydantic and zod write them: what a random writer makes of them is what those libraries take."""

import datetime
import enum
import json
import random
import uuid
from decimal import Decimal
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from annotated_types import Len
from pydantic import AnyUrl, Base64Bytes, BaseModel, Field, Json, SecretStr, TypeAdapter, confloat, conint, constr
from test_dead_ends import COMPILER, walked

from hyla.answers.followable import Unfollowable, followable
from hyla.engine import JsonSchema
from hyla.errors import RequestError


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: conint(ge=0, le=9)


class Dog(BaseModel):
    kind: Literal["dog"]
    name: constr(max_length=3)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Tree(BaseModel):
    value: Annotated[int, Field(ge=0, le=9)]
    children: Annotated[list["Tree"], Len(0, 2)]


class Owner(BaseModel):
    model_config = {"extra": "forbid"}
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    colour: Colour
    born: datetime.date | None = None
    note: Annotated[str, Field(max_length=2, description="a note", examples=["x"])] = ""


TYPES = {
    "int64": conint(ge=-(2**63), le=2**63 - 1),
    "uint64": conint(ge=0, le=2**64 - 1),
    "decimal": Decimal,
    "fraction": confloat(gt=0, lt=1),
    "tenth": confloat(gt=0, le=0.1),
    "huge": confloat(ge=0, lt=1e308),
    "uuid": uuid.UUID,
    "date": datetime.date,
    "time": datetime.timedelta,
    "secret": SecretStr,
    "bytes": bytes,
    "base64": Base64Bytes,
    "json": Json,
    "phone": Annotated[str, Field(pattern=r"^\d{3}-\d{4}$")],
    "tuple": tuple[int, constr(max_length=2), bool],
    "list": Annotated[list[conint(ge=0, le=9)], Len(1, 3)],
    "few": set[Literal["a", "b", "c"]],
    "map": dict[Annotated[str, Field(pattern="^x[0-9]$")], bool],
    "listed map": dict[Literal["a", "b"], conint(ge=0, le=9)],
    "uuid map": dict[uuid.UUID, bool],
    "short map": dict[constr(min_length=1, max_length=2), bool],
    "union": bool | conint(ge=0, le=9) | constr(max_length=2) | None,
    "literals": Literal["a", 3, True, None],
    "told apart": Annotated[Cat | Dog, Field(discriminator="kind")],
    "recursive": Tree,
    "model": Owner,
}
LOOSE = {"base64", "decimal", "json", "map", "time", "uuid map"}
"""Types of which a schema says less than the type asks for, so that only the schema decides."""


@pytest.mark.parametrize("mode", ["validation", "serialization"])
@pytest.mark.parametrize("name", TYPES)
def test_a_schema_of_pydantic_is_met(name, mode):
    adapter = TypeAdapter(TYPES[name])
    schema = adapter.json_schema(mode=mode)
    finished = 0
    for seed in range(12):
        text, is_whole = walked(schema, seed, 600)
        if is_whole:
            jsonschema.Draft202012Validator(schema).validate(json.loads(text))
            if name not in LOOSE:
                adapter.validate_json(text)
            finished += 1
    assert finished


def test_a_url_and_anything_are_met():
    for own in (AnyUrl, Any, dict[str, Any], list[Any]):
        assert COMPILER.compile(JsonSchema(json_schema=TypeAdapter(own).json_schema()))


DECIMALS = [
    r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$",
    r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d{0,2}0*$",
    r"^(?!^[-+.]*$)[+-]?0*(?:\d{0,3}|(?=[\d.]{1,6}0*$)\d{0,3}\.\d{0,2}0*$)",
    r"^(?!^[-+.]*$)[+-]?0*(?:\d{0,5}|(?=[\d.]{1,6}0*$)\d*\.\d*0*$)",
]
EMAIL = r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"
PASSWORD = r"^(?=.*[A-Z])(?=.*[0-9]).{3,8}$"


@pytest.mark.parametrize("pattern", [*DECIMALS, EMAIL, PASSWORD])
def test_look_ahead_at_the_start_of_a_pattern_is_met(pattern):
    # Both ways: a string of the pattern's characters fits the patterns in its place where it fits the pattern itself.
    schema = {"type": "string", "pattern": pattern}
    given, made = jsonschema.Draft202012Validator(schema), jsonschema.Draft202012Validator(followable(schema))
    draw = random.Random(3)
    for chars in ("0123.+-", "ab.@", "A1b", "00.12"):
        for _ in range(1_000):
            text = "".join(draw.choice(chars) for _ in range(draw.randint(0, 9)))
            # pydantic's have no end after their first alternative, and so fit more than decimals.
            is_same = given.is_valid(text) == made.is_valid(text)
            assert is_same or (pattern in DECIMALS[2:] and not made.is_valid(text)), text
    for seed in range(8):
        text, is_whole = walked(schema, seed, 400, likes=frozenset(b'a1A@."'))
        assert not is_whole or given.is_valid(json.loads(text))


ZOD = {
    "record": {"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": {"type": "boolean"}},
    "record of an enum": {
        "type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": {"type": "boolean"},
    },
    "never": {
        "type": "object", "properties": {"a": {"type": "boolean"}, "b": {"not": {}}}, "additionalProperties": False,
    },
    "tuple": {
        "type": "array", "items": [{"type": "boolean"}, {"type": "null"}], "additionalItems": False, "minItems": 2,
        "$schema": "http://json-schema.org/draft-07/schema#",
    },
    "positive": {"type": "integer", "exclusiveMinimum": 0, "maximum": 9007199254740991},
    "openApi3": {"type": "integer", "minimum": 0, "exclusiveMinimum": True, "maximum": 9, "format": "int64"},
    "reused": {
        "type": "object", "required": ["a", "b"], "additionalProperties": False,
        "properties": {"a": {"anyOf": [{"enum": [1]}, {"type": "null"}]}, "b": {"$ref": "#/properties/a/anyOf/0"}},
    },
    "told apart": {
        "oneOf": [
            {"type": "object", "properties": {"t": {"const": t}, "v": {"type": v}}, "required": ["t", "v"]}
            for t, v in (("a", "boolean"), ("b", "null"))
        ]
    },
    "dependent": {
        "type": "object", "properties": {"a": {"type": "boolean"}, "b": {"type": "boolean"}},
        "additionalProperties": False, "dependentRequired": {"a": ["b"]},
    },
    "unevaluated": {"type": "object", "properties": {"a": {"type": "null"}}, "unevaluatedProperties": False},
}  # fmt: skip


@pytest.mark.parametrize("name", ZOD)
def test_a_schema_of_zod_is_met(name):
    schema, finished = ZOD[name], 0
    wanted = jsonschema.Draft7Validator if name == "tuple" else jsonschema.Draft202012Validator
    if name == "openApi3":
        wanted = jsonschema.Draft4Validator
    for seed in range(20):
        text, is_whole = walked(schema, seed, 400)
        if is_whole:
            wanted(schema).validate(json.loads(text))
            finished += 1
    assert finished


REFUSED = [
    ({"type": "array", "items": {"type": "string"}, "uniqueItems": True}, "'uniqueItems'"),
    ({"type": "object", "propertyNames": {"pattern": "^a", "maxLength": 3}}, "'propertyNames'"),
    ({"if": {"minimum": 3}, "then": {"maximum": 4}}, "'if'"),
    ({"not": {"type": "string"}}, "'not'"),
    ({"type": "array", "contains": {"type": "null"}}, "'contains'"),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf whose alternatives may overlap"),
    ({"type": "string", "pattern": "^(?!ab|c)x"}, "look-ahead that is not known"),
    ({"type": "object", "minProperties": 3}, "minProperties 3"),
]


@pytest.mark.parametrize(("schema", "why"), REFUSED)
def test_what_no_grammar_can_follow_is_refused_with_its_place(schema, why):
    whole = {"type": "object", "properties": {"inner": {"type": "array", "items": schema}}}
    with pytest.raises(Unfollowable, match=r"^/properties/inner/items has ") as caught:
        followable(whole)
    assert why in str(caught.value)
    with pytest.raises(RequestError, match="/properties/inner/items has"):
        COMPILER.compile(JsonSchema(json_schema=whole))
