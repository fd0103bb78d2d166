"""What an answer must look like: response_format and its relatives, checked and turned into one grammar."""

from __future__ import annotations

import json
from typing import Any

from hyla.answers import constraints
from hyla.errors import RequestError
from hyla.server.guard.limits import Limits
from hyla.server.schemas.chat import ChatRequest
from hyla.server.schemas.completions import CompletionRequest
from hyla.server.schemas.fields import is_larger
from hyla.server.schemas.generation import ResponseFormat


def grammar_of(requested: ChatRequest | CompletionRequest, limits: Limits) -> dict | None:
    """The one constraint of a request, None without. Raises RequestError for two, and for what is too large."""
    found: dict[str, Any] = {}
    if (
        requested.response_format is not None
        and (grammar := format_grammar(requested.response_format, limits)) is not None
    ):
        found["response_format"] = grammar
    for name, kind in (("guided_json", "json_schema"), ("guided_regex", "regex"), ("guided_choice", "choice")):
        if (value := getattr(requested, name)) is not None:
            found[name] = _grammar(kind, value, name, limits)
    if requested.guided_grammar is not None:
        found["guided_grammar"] = _grammar("grammar", requested.guided_grammar, "guided_grammar", limits)
    if requested.structured_outputs is not None:
        given = {kind: value for kind, value in requested.structured_outputs if value not in (None, False)}
        if len(given) != 1:
            raise RequestError(
                f"structured_outputs sets {len(given)} constraints; set exactly one of json, regex, choice, grammar "
                "and json_object",
                "structured_outputs",
            )
        ((kind, value),) = given.items()
        found["structured_outputs"] = _grammar(kind, value, "structured_outputs", limits)
    if len(found) > 1:
        names = " and ".join(found)
        raise RequestError(f"{names} constrain the same answer; give one of them", list(found)[1])
    return next(iter(found.values()), None)


def format_grammar(form: ResponseFormat, limits: Limits, name: str = "response_format") -> dict | None:
    """OpenAI's response_format; None for plain text."""
    if form.type == "text":
        return None
    if form.type == "json_object":
        return _grammar("json_object", True, name, limits)
    if form.json_schema is None or form.json_schema.schema_ is None:
        raise RequestError(f"{name} of type json_schema needs json_schema.schema; add it", name)
    return _grammar("json_schema", form.json_schema.schema_, name, limits)


def _grammar(kind: str, value: Any, name: str, limits: Limits) -> dict:
    if kind == "json_object":
        return constraints.json_object_grammar()
    if kind == "json_schema":
        return constraints.json_schema_grammar(check_schema(_as_object(value, name, limits), name, limits))
    if kind == "choice":
        if not value or is_larger(value, limits.max_schema_bytes):
            raise RequestError(f"{name} must hold some choices, of at most {limits.max_schema_bytes} bytes", name)
        return constraints.choice_grammar(value)
    if len(value.encode()) > limits.max_schema_bytes:
        raise RequestError(f"{name} is larger than {limits.max_schema_bytes} bytes; shorten it", name)
    return constraints.regex_grammar(value) if kind == "regex" else constraints.text_grammar(value)


def _as_object(value: dict | str, name: str, limits: Limits) -> dict:
    """A schema that may have come as text."""
    if isinstance(value, str) and len(value) > limits.max_schema_bytes:
        raise RequestError(f"{name} is larger than {limits.max_schema_bytes} bytes; shorten it", name)
    try:
        schema = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{name} is not valid JSON: {error}", name) from error
    if not isinstance(schema, dict):
        raise RequestError(f"{name} is a JSON {type(schema).__name__}; a schema is an object", name)
    return schema


def check_schema(schema: dict, name: str, limits: Limits, *, param: str | None = None, is_held: bool = True) -> dict:
    """The schema, within the bounds. References may only point into it: nothing is fetched.

    name: what holds it, for people. param: the field, if that is another word. is_held: whether an answer is sure to be
    held to it; elsewhere a reference to somewhere else means nothing yet.
    """
    if is_larger(schema, limits.max_schema_bytes):
        message = f"{name} holds a schema larger than {limits.max_schema_bytes} bytes; shorten it"
        raise RequestError(message, param or name)
    waiting = [(schema, 1)]
    while waiting:
        value, depth = waiting.pop()
        if depth > limits.max_schema_depth:
            message = f"{name} holds a schema nested deeper than {limits.max_schema_depth}; flatten it"
            raise RequestError(message, param or name)
        if isinstance(value, dict):
            reference = value.get("$ref")
            if is_held and isinstance(reference, str) and not reference.startswith("#"):
                message = f"{name} refers to {reference!r}; only references inside the schema work"
                raise RequestError(message, param or name)
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        waiting += [(child, depth + 1) for child in inner]
    return schema
