"""From the text between two tags to a JSON value, as the tool's schema asks for it."""

from __future__ import annotations

import json
import math
from typing import Any

from hyla.answers.schemas import Wanted, kind_of, value_in

LITERALS = {"True": True, "False": False, "None": None}
"""Python's spelling, which models write where JSON's should stand."""


class _NoValue(Exception):
    """The text is no JSON value."""


def value_json(text: str, wanted: Wanted, *, is_json: bool = False) -> str:
    """JSON text of one value.

    A text has no type, so the schema decides. Where it leaves a choice: a listed value (`enum`, `const`) that the text
    names; null for "null" alone; a list or an object; true and false; and a string before a number. Where nothing of it
    fits, the text goes out as what it looks like.

    is_json: the format says that the text is JSON, and so no bare string.

    >>> value_json("12", Wanted(frozenset({"string", "integer"}))), value_json("12", Wanted(frozenset({"integer"})))
    ('"12"', '12')
    """
    stripped = text.strip()
    if (listed := _listed(text, wanted)) is not None:
        return listed
    is_text = "string" in wanted.kinds
    try:
        value = json_value(stripped)
    except _NoValue:
        literal = not is_text and stripped in LITERALS
        return json.dumps(LITERALS[stripped]) if literal else _string(text)
    kind = kind_of(value)
    if is_text and not (is_json and (kind == "string" or kind in wanted.kinds)):
        return stripped if kind in wanted.kinds & {"array", "object"} else _string(text)
    return json.dumps(int(value)) if kind == "integer" and "number" not in wanted.kinds else stripped


def json_value(text: str) -> Any:
    """A JSON value; NaN, infinity and what no double holds are none."""
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise _NoValue from error
    if isinstance(value, float) and not math.isfinite(value):
        raise _NoValue
    return value


def _refuse(name: str):
    raise ValueError(name)


def _listed(text: str, wanted: Wanted) -> str | None:
    """The single value that a text names: the string that it is before what it reads as."""
    stripped = text.strip()
    for string in (text, stripped):
        if value_in(string, wanted.values):
            return _string(string)
    if stripped == "None" and "string" in wanted.kinds:
        return None
    try:
        value = LITERALS[stripped] if stripped in LITERALS else json_value(stripped)
    except _NoValue:
        return None
    return json.dumps(value, ensure_ascii=False) if value_in(value, wanted.values) else None


def spellings(value: Any) -> tuple[str, ...]:
    """How a value that is no string is written."""
    return (json.dumps(value), *(name for name, own in LITERALS.items() if own is value))


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
