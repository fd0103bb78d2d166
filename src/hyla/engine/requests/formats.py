"""What an answer must look like: the kinds of structured output, as plain messages (compiled by
`engine.sampling.grammar`)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from hyla.engine.requests.chains import EBNF_RULE, LARK_RULE, MOST_PARTS, MOST_RULES, rule_chain, schema_parts

MAX_SCHEMA_CHARS = 1 << 16
MAX_SCHEMA_DEPTH = 64
"""Nested lists and objects of a schema's text."""
MAX_PATTERN_CHARS = 1 << 13
MAX_GRAMMAR_CHARS = 1 << 16
MAX_CHOICES = 1024
EXACT_INTEGER = 1 << 53
"""Largest magnitude of an integer that a double keeps, and every smaller one too."""


class _Format(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class JsonSchema(_Format):
    """JSON that is valid under a schema. A keyword that cannot be guaranteed is refused, never ignored."""

    type: Literal["json_schema"] = "json_schema"
    json_schema: dict[str, Any] | bool
    """The schema itself. Properties are written in its order."""

    @field_validator("json_schema")
    @classmethod
    def _is_small(cls, schema):
        if depth_of(schema) > MAX_SCHEMA_DEPTH:
            raise ValueError(f"the schema is nested more than {MAX_SCHEMA_DEPTH} deep; use $ref or simplify it")
        try:
            size = len(json.dumps(schema, allow_nan=False))
        except TypeError as error:
            raise ValueError(f"the schema is not JSON: {error}") from error
        if size > MAX_SCHEMA_CHARS:
            raise ValueError(f"the schema's text has {size} characters; at most {MAX_SCHEMA_CHARS} are taken")
        parts = schema_parts(schema)
        if parts > MOST_PARTS:
            raise ValueError(
                f"the schema leads {parts} parts deep, references followed; at most {MOST_PARTS} are taken"
            )
        wide = next(
            (value for value in _listed_values(schema) if type(value) is int and abs(value) > EXACT_INTEGER), None
        )
        if wide is not None:
            # The grammar's numbers are doubles: it would write another one, which is not valid.
            raise ValueError(f"{wide} in enum or const has more than 53 bits and would be changed; give it as a string")
        return schema


def _listed_values(schema: Any) -> Iterator[Any]:
    """The values of every enum and const of a schema, at any depth; not what objects among them hold."""
    if isinstance(schema, dict):
        yield from schema["enum"] if isinstance(schema.get("enum"), list) else ()
        yield schema.get("const")
    for part in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from _listed_values(part)


class JsonObject(_Format):
    """Any JSON object."""

    type: Literal["json_object"] = "json_object"


class Regex(_Format):
    """Text that a regular expression matches from its first to its last character."""

    type: Literal["regex"] = "regex"
    pattern: Annotated[str, Field(min_length=1, max_length=MAX_PATTERN_CHARS)]
    r"""Rust's syntax: no look-around, no back-references; \d, \w and \s are those of Unicode."""


class Choice(_Format):
    """An answer that is one of some texts."""

    type: Literal["choice"] = "choice"
    options: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=1024)], ...], Field(min_length=1, max_length=MAX_CHOICES)
    ]


class Lark(_Format):
    """A context-free grammar in Lark's notation, as llguidance reads it; it begins with the rule `start`."""

    type: Literal["lark"] = "lark"
    text: Annotated[str, Field(min_length=1, max_length=MAX_GRAMMAR_CHARS)]

    @field_validator("text")
    @classmethod
    def _is_shallow(cls, text):
        return _shallow(text, LARK_RULE)


class Ebnf(_Format):
    """A context-free grammar in GBNF, the EBNF of llama.cpp; it begins with the rule `root`."""

    type: Literal["ebnf"] = "ebnf"
    text: Annotated[str, Field(min_length=1, max_length=MAX_GRAMMAR_CHARS)]

    @field_validator("text")
    @classmethod
    def _is_shallow(cls, text):
        return _shallow(text, EBNF_RULE)


def _shallow(text: str, rule: re.Pattern) -> str:
    """The text, if its rules do not lead too far."""
    count = rule_chain(text, rule)
    if count > MOST_RULES:
        raise ValueError(f"{count} rules of the grammar lead to each other; at most {MOST_RULES} are taken")
    return text


Format = Annotated[JsonSchema | JsonObject | Regex | Choice | Lark | Ebnf, Field(discriminator="type")]


def depth_of(value: Any) -> int:
    """How deep lists and objects are nested, counted without recursion.

    >>> depth_of(3), depth_of([]), depth_of({"a": [1, {}]})
    (0, 1, 3)
    """
    depth, level = 0, [value]
    while True:
        level = [one for one in level if isinstance(one, dict | list | tuple)]
        if not level or depth > MAX_SCHEMA_DEPTH:
            return depth
        depth += 1
        level = [child for one in level for child in (one.values() if isinstance(one, dict) else one)]
