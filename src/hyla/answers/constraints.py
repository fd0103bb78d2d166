"""What an answer must look like, as the engine's `grammar` field spells it: a union tagged by `type`."""

from __future__ import annotations

import json
import re
from typing import Any

SPACE = r"\x20?(\r?\n[\x20\t]{0,64})?"
"""What may stand between the parts of JSON: a space, or a line end with an indent. Where any space may, a weak model
goes on with spaces until its tokens are spent."""


ESCAPES = 'nrbtf\\"'
"""What may stand behind a backslash: a name written with \\u would be another one to the grammar than to its reader."""
CONTROL = re.compile(r"\\u00[01]")


def with_bounded_space(schema: Any) -> Any:
    """The schema, with SPACE as its space unless it says itself how much there may be."""
    return {"x-guidance": {"whitespace_pattern": SPACE}} | schema if isinstance(schema, dict) else schema


def strictness(schema: Any) -> dict[str, Any]:
    """How a schema is compiled, whatever it says under "x-guidance": no keyword is ignored, and characters stand for
    themselves (ESCAPES), unless it lists a control character, which has no other spelling."""
    escapes = {} if CONTROL.search(json.dumps(schema)) else {"json_allowed_escapes": ESCAPES}
    return {"lenient": False, "coerce_one_of": False, **escapes}


def strictly(schema: Any) -> Any:
    """The schema, with its `strictness` written in it."""
    if not isinstance(schema, dict):
        return schema
    given = schema.get("x-guidance")
    return {**schema, "x-guidance": {**(given if isinstance(given, dict) else {}), **strictness(schema)}}


def json_schema_grammar(schema: dict) -> dict:
    return {"type": "json_schema", "json_schema": with_bounded_space(schema)}


def json_object_grammar() -> dict:
    return json_schema_grammar({"type": "object"})


def regex_grammar(pattern: str) -> dict:
    return {"type": "regex", "pattern": pattern}


def text_grammar(text: str) -> dict:
    """A grammar in Lark's notation or, where it defines a rule with ::=, in GBNF."""
    return {"type": "ebnf" if "::=" in text else "lark", "text": text}


def choice_grammar(choices: list[str]) -> dict:
    return {"type": "choice", "options": tuple(choices)}
