"""From a Python function to what a model is told of it: a name, a text, and a JSON schema of its arguments."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from typing import Any, Literal, Union, get_args, get_origin

KINDS = {str: "string", int: "integer", float: "number", bool: "boolean", list: "array", dict: "object"}
KNOWN = "str, int, float, bool, list[...], dict[str, ...], Literal[...], None, X | Y, Any"


class Unfit(Exception):
    """A function that cannot be a tool, and why."""


def tools_of(module: types.ModuleType) -> dict[str, Callable]:
    """The functions that a module defines itself, by name, without those that begin with _. In the file's order."""
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value) and not name.startswith("_") and value.__module__ == module.__name__
    }


def described(name: str, function: Callable) -> dict[str, Any]:
    """name, description and parameters, as OpenAI's API has them. Raises Unfit."""
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise Unfit(f"{name} is asynchronous; write it with def alone, or let its name begin with _")
    try:
        hints = typing.get_type_hints(function)
    except Exception as error:  # whatever stands in an annotation
        raise Unfit(f"the annotations of {name} cannot be read ({error}); correct them") from error
    properties, required = {}, []
    for own in inspect.signature(function).parameters.values():
        if own.kind not in (own.POSITIONAL_OR_KEYWORD, own.KEYWORD_ONLY):
            raise Unfit(f"{name} takes {own}, and a model gives arguments by name; name each of them")
        try:
            properties[own.name] = schema_of(hints.get(own.name, Any))
        except Unfit as error:
            raise Unfit(f"the argument {own.name} of {name} is {error}; write one of {KNOWN}") from None
        if own.default is own.empty:
            required.append(own.name)
    parameters = {"type": "object", "properties": properties, "required": required}
    return {"name": name, "description": inspect.getdoc(function), "parameters": parameters}


def schema_of(annotation: Any) -> dict[str, Any]:
    """A JSON schema of an annotation. Raises Unfit for one that JSON has nothing for.

    >>> schema_of(list[int] | None)
    {'anyOf': [{'type': 'array', 'items': {'type': 'integer'}}, {'type': 'null'}]}
    """
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return {}
    if annotation is None or annotation is type(None):
        return {"type": "null"}
    if annotation in KINDS:
        return {"type": KINDS[annotation]}
    if origin is Literal:
        return {"enum": list(inner)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [schema_of(one) for one in inner]}
    if origin is list:
        return {"type": "array", "items": schema_of(inner[0])}
    if origin is dict and inner[0] is str:
        return {"type": "object", "additionalProperties": schema_of(inner[1])}
    raise Unfit(f"annotated {annotation}, which is no JSON value")
