"""Values of tagged formats have no type of their own: the tool's schema gives them one."""

import jsonschema
import pytest
from call_texts import TAGGED, argument, read_calls, tool, whole
from test_parsers import parser_of

from hyla.answers.schemas import Wanted, wanted_of
from hyla.answers.tools import ToolUse

STRING, INTEGER, NULL = {"type": "string"}, {"type": "integer"}, {"type": "null"}
DEFS = {
    "Name": STRING,
    "Size": {"enum": [1, 2]},
    "Either": {"oneOf": [{"$ref": "#/$defs/Name"}, INTEGER]},
    "Deep": {"$ref": "#/$defs/Either"},
}

CASES = [
    ({"anyOf": [STRING, NULL]}, "12345", "12345"),
    ({"anyOf": [STRING, NULL]}, "null", None),
    ({"anyOf": [STRING, NULL]}, "nullable", "nullable"),
    ({"anyOf": [STRING, NULL]}, "None", "None"),
    ({"anyOf": [STRING, NULL]}, "", ""),
    ({"type": ["string", "null"]}, "1e5", "1e5"),
    ({"type": ["null", "string"]}, " 12 ", " 12 "),
    ({"type": "string", "nullable": True}, "null", None),
    (STRING, "null", "null"),
    (STRING, "[1]", "[1]"),
    ({"oneOf": [INTEGER, STRING]}, "5", "5"),
    ({"oneOf": [INTEGER, NULL]}, "5", 5),
    ({"oneOf": [INTEGER, NULL]}, "None", None),
    ({"type": ["string", "boolean"]}, "true", True),
    ({"type": ["string", "array"]}, '["a"]', ["a"]),
    ({"type": ["string", "object"]}, "{not json", "{not json"),
    ({"const": "5"}, "5", "5"),
    ({"const": 5}, "5", 5),
    ({"enum": ["1", "2"]}, "1", "1"),
    ({"enum": [1, 2]}, "1", 1),
    ({"enum": [1, "1"]}, "1", "1"),
    ({"enum": ["on", None]}, "null", None),
    ({"enum": ["a", "b"]}, " b ", "b"),
    ({"enum": [True, "yes"]}, "True", True),
    ({"anyOf": [{"enum": ["1"]}, NULL]}, "1", "1"),
    ({"anyOf": [{"const": 7}, {"const": "x"}]}, "7", 7),
    ({}, "12345", "12345"),
    ({"description": "anything"}, "007", "007"),
    ({}, '{"a": [1]}', {"a": [1]}),
    ({}, "true", True),
    ({"$ref": "#/$defs/Name"}, "12345", "12345"),
    ({"$ref": "#/$defs/Size"}, "2", 2),
    ({"$ref": "#/$defs/Deep"}, "5", "5"),
    ({"allOf": [{"$ref": "#/$defs/Name"}], "default": "x"}, "5", "5"),
    ({"allOf": [{"type": ["string", "integer"]}, {"type": ["integer", "null"]}]}, "5", 5),
    ({"anyOf": [{"enum": ["auto"]}, INTEGER]}, "12", 12),
    ({"anyOf": [{"enum": ["auto"]}, INTEGER]}, "auto", "auto"),
    ({"enum": [1, 2], "const": 2}, "2", 2),
    ({"anyOf": [STRING, {"const": 7}]}, "7", 7),
    ({"anyOf": [STRING, {"const": 7}]}, "70", "70"),
    ({}, "null", None),
    (INTEGER, "12", 12),
    (INTEGER, "3.0", 3),
    ({"type": "number"}, "3.5", 3.5),
    ({"type": "number"}, "NaN", "NaN"),
    ({"type": "number"}, "-Infinity", "-Infinity"),
    ({"type": "number"}, "1e999", "1e999"),
    ({"type": "array"}, "[NaN]", "[NaN]"),
    ({"type": "boolean"}, "False", False),
    ({"type": "object"}, "not json", "not json"),
    ({"$ref": "#/$defs/None"}, "5", "5"),
]  # fmt: skip


@pytest.mark.parametrize("name", TAGGED)
@pytest.mark.parametrize(("schema", "text", "wanted"), CASES)
def test_the_schema_gives_a_value_its_type(name, schema, text, wanted):
    # DSML's tag knows whether it is a string; where it says so, the schema still decides what cannot be one.
    says = None if isinstance(wanted, str) else False
    own = tool("f", {"a": schema, "b": STRING}, **{"$defs": DEFS})
    calls = whole(name, "f", argument(name, "a", text, says_string=says), argument(name, "b", "x"))
    assert read_calls(name, calls, own) == ("", "", [("f", {"a": wanted, "b": "x"})])
    assert type(read_calls(name, calls, own)[2][0][1]["a"]) is type(wanted)


@pytest.mark.parametrize("says", [True, False])
@pytest.mark.parametrize(
    ("schema", "text", "wanted"),
    [
        (INTEGER, "5", (5, 5)),
        (STRING, "5", ("5", "5")),
        ({"type": ["string", "integer"]}, "5", ("5", 5)),
        ({"type": ["string", "null"]}, "null", ("null", None)),
        (STRING, '"5"', ('"5"', "5")),
        ({}, "[1]", ("[1]", [1])),
        ({"enum": [1, 2]}, "2", (2, 2)),
    ],
)
def test_the_word_of_a_tag_counts_where_the_schema_leaves_a_choice(schema, text, wanted, says):
    call = whole("deepseek_v32", "f", argument("deepseek_v32", "a", text, says_string=says))
    assert read_calls("deepseek_v32", call, tool("f", {"a": schema}))[2] == [("f", {"a": wanted[0 if says else 1]})]


@pytest.mark.parametrize("name", TAGGED)
def test_properties_are_found_behind_references_and_conjunctions_and_by_additional_ones(name):
    root = {
        "$ref": "#/$defs/Root",
        "allOf": [{"properties": {"b": STRING}}],
        "additionalProperties": INTEGER,
        "$defs": {"Root": {"type": "object", "properties": {"a": STRING}}},
    }
    own = tool("f", {}, **root)
    call = whole(name, "f", *(argument(name, key, "1", says_string=key == "a") for key in "abc"))
    assert read_calls(name, call, own)[2] == [("f", {"a": "1", "b": "1", "c": 1})]


@pytest.mark.parametrize("name", TAGGED)
def test_a_text_that_may_be_null_streams_once_it_cannot(name):
    own = tool("f", {"a": {"anyOf": [STRING, NULL]}})
    text = whole(name, "f", argument(name, "a", "a long text"))
    parser = parser_of(name, tools=ToolUse((own,), "auto"))
    given = "".join(getattr(delta, "arguments", "") for delta in parser.push(text[: text.index(" text")]))
    assert given == '{"a": "a long'


def test_schemas_that_lead_nowhere_say_nothing():
    loop = {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"anyOf": [{"$ref": "#/$defs/a"}]}}}
    assert wanted_of({"$ref": "#/$defs/a"}, loop) == Wanted()
    doubling = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(60)} | {"d60": {"anyOf": []}}
    assert wanted_of({"$ref": "#/$defs/d0"}, {"$defs": doubling}) == Wanted()
    chain = {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(2000)}
    assert wanted_of({"$ref": "#/$defs/d0"}, {"$defs": chain}) == Wanted()
    assert wanted_of(False, {}) == wanted_of({"type": "str"}, {}) == wanted_of(True, {}) == Wanted()


@pytest.mark.parametrize(("schema", "text", "wanted"), CASES)
def test_the_cases_are_valid_where_the_schema_allows_anything_of_the_kind(schema, text, wanted):
    impossible = text in ("NaN", "-Infinity", "1e999", "[NaN]", "not json") or "#/$defs/None" in str(schema)
    if not impossible and schema.get("oneOf") != [INTEGER, STRING] and "nullable" not in schema:
        jsonschema.validate(wanted, {**schema, "$defs": DEFS})
