"""From the bytes of a request to checked fields. What is not supported is refused by name, never ignored."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from hyla.errors import RequestError
from hyla.server.errors import HTTPFailure

NO_OPS = frozenset(
    {
        "user", "store", "metadata", "service_tier", "safety_identifier", "prompt_cache_key",
        "prompt_cache_retention", "parallel_tool_calls",
    }
)  # fmt: skip
"""Fields of OpenAI's schema that change nothing here, whatever their value."""

NEUTRAL: Mapping[str, Callable[[Any], bool]] = {
    "frequency_penalty": lambda value: value in (None, 0),
    "presence_penalty": lambda value: value in (None, 0),
    "repetition_penalty": lambda value: value in (None, 1),
    "logit_bias": lambda value: value in (None, {}),
    "best_of": lambda value: value in (None, 1),
    "echo": lambda value: value in (None, False),
    "suffix": lambda value: value in (None, ""),
    "tools": lambda value: value in (None, []),
    "tool_choice": lambda value: value in (None, "none", "auto"),
    "functions": lambda value: value in (None, []),
    "function_call": lambda value: value in (None, "none", "auto"),
    "response_format": lambda value: value in (None, {"type": "text"}),
    "modalities": lambda value: value in (None, ["text"]),
    "audio": lambda value: value is None,
    "prediction": lambda value: value is None,
    "reasoning_effort": lambda value: value is None,
    "verbosity": lambda value: value is None,
    "web_search_options": lambda value: value is None,
}
"""Fields that are known and not supported, with the values at which they ask for nothing."""

Schema = TypeVar("Schema", bound=BaseModel)


async def read_json(request: Request, max_bytes: int) -> dict:
    """The body as a JSON object. 413 when it is larger than max_bytes, RequestError when it is not JSON."""
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > max_bytes:
            raise HTTPFailure(
                413, f"the body is larger than {max_bytes} bytes; send less", kind="invalid_request_error"
            )
    try:
        body = json.loads(raw.decode(), parse_constant=_refuse_constant)
        json.dumps(body, ensure_ascii=False).encode()
    except UnicodeError as error:
        raise RequestError(f"the body is not valid UTF-8 text: {error}; send UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is not valid JSON: {error}; send a JSON object") from error
    if not isinstance(body, dict):
        raise RequestError(f"the body is a JSON {type(body).__name__}; send a JSON object")
    return body


def _refuse_constant(name: str):
    raise ValueError(f"{name} is not a JSON number")


def parse(schema: type[Schema], body: dict) -> Schema:
    """Checked fields. Raises RequestError that names the first wrong one."""
    for name, is_neutral in NEUTRAL.items():
        if name in body and not is_neutral(body[name]):
            raise RequestError(f"{name} = {_short(body[name])} is not supported; leave it out", name)
    fields = {name: value for name, value in body.items() if name not in NO_OPS and name not in NEUTRAL}
    try:
        return schema.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else None
        path = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise RequestError(
                f"{path} is not a field of this request; remove it or check its spelling", name
            ) from error
        if first["type"] == "missing":
            raise RequestError(f"{path} is missing; every request needs it", name) from error
        raise RequestError(f"{path} = {_short(first.get('input'))}: {first['msg']}", name) from error


def _short(value) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."
