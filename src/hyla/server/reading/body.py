"""From the bytes of a request to checked fields. What is not supported is refused by name, never ignored."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from hyla.errors import RequestError
from hyla.server.guard.limits import Limits
from hyla.server.reading.counting import JsonCounter
from hyla.server.reading.errors import HTTPFailure
from hyla.server.reading.mistakes import request_error, short, written
from hyla.server.schemas.fields import Body, NoEffect, OnlyNeutral

logger = logging.getLogger(__name__)

Schema = TypeVar("Schema", bound=Body)

LARGE_BYTES = 1 << 16
"""Bodies from this size on are read on another thread."""
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
"""Half of a character, or of a pair of them."""


async def read_body(schema: type[Schema], request: Request, limits: Limits) -> Schema:
    """The body's checked fields. 415 for another type, 413 when it is too large, 408 too slow, RequestError when it is
    not JSON or does not fit the schema."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind and kind != "application/json" and not kind.endswith("+json"):
        # What pages of other sites can send without being asked first is of other types.
        raise HTTPFailure(415, f"Content-Type = {short(kind)} is not JSON; send Content-Type: application/json")
    try:
        async with asyncio.timeout(limits.body_seconds):
            raw = await _read(request, limits)
    except TimeoutError:
        message = f"the body did not arrive within {limits.body_seconds:g} seconds; send it faster"
        raise HTTPFailure(408, message, headers={"Connection": "close"}) from None
    except ClientDisconnect:
        raise HTTPFailure(400, "the client left before its body had arrived") from None  # nobody reads it

    def understand() -> Schema:
        return parse(schema, _load(raw, limits))

    return understand() if len(raw) < LARGE_BYTES else await asyncio.to_thread(understand)


def _check_shape(body: dict, most: int, most_names: int) -> None:
    """Whatever reads the body later may do so by recursion, and may have something to say to each name."""
    level: list[Any] = [body]
    for _ in range(most):
        if any(len(item) > most_names for item in level if isinstance(item, dict)):
            raise RequestError(f"the body has an object of more than {most_names} names; send a smaller one")
        containers = [
            item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list)
        ]
        level = [value for container in containers for value in container]
        if not level:
            return
    raise RequestError(f"the body is nested deeper than {most} levels; send a flatter one")


async def _read(request: Request, limits: Limits) -> bytearray:
    raw, counter = bytearray(), JsonCounter()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > limits.max_body_bytes:
            raise HTTPFailure(413, f"the body is larger than {limits.max_body_bytes} bytes; send less")
        counter.add(chunk)
        for num, most, what in (
            (counter.num_containers, limits.max_json_containers, "lists and objects"),
            (counter.num_values, limits.max_json_values, "values"),
        ):
            if num > most:
                raise HTTPFailure(413, f"the body has more than {most} {what}; send fewer")
    return raw


def _load(raw: bytearray, limits: Limits) -> dict:
    """The JSON object that some bytes are. Raises RequestError."""
    try:
        body = json.loads(raw.decode(), parse_constant=_refuse_constant, parse_float=_finite)
        if SURROGATE.search(raw):
            json.dumps(body, ensure_ascii=False).encode()
    except UnicodeError as error:
        raise RequestError(f"the body is not valid UTF-8 text: {error}; send UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is not valid JSON: {error}; send a JSON object") from error
    if not isinstance(body, dict):
        raise RequestError(f"the body is a JSON {type(body).__name__}; send a JSON object")
    _check_shape(body, limits.max_json_depth, limits.max_json_names)
    _check_lists(body, limits)
    return body


def _check_lists(body: dict, limits: Limits) -> None:
    """Lists whose items have schemas of their own: each item is looked at."""
    for name, most in (
        ("messages", limits.max_messages),
        ("input", limits.max_messages),
        ("tools", limits.max_tools),
        ("documents", limits.max_messages),
    ):
        given = body.get(name)
        if isinstance(given, list) and len(given) > most and isinstance(given[0], dict):
            raise RequestError(f"{name} holds {len(given)} of them; at most {most} go at once", name)


def _refuse_constant(name: str):
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:40]} is larger than any number here")
    return value


def parse(schema: type[Schema], body: dict) -> Schema:
    """Checked fields. Raises RequestError that names the first wrong one."""
    try:
        requested = schema.model_validate(body)
    except ValidationError as error:
        raise request_error(error, body) from error
    _review(requested)
    return requested


_told: set[str] = set()
"""Fields whose missing effect the log has."""


def say_once(name: str, reason: str) -> None:
    """Log that a field changes nothing, unless the log has it."""
    if name not in _told:
        _told.add(name)
        logger.warning("requests set %s, which changes nothing here: %s", name, reason)


def _review(requested: BaseModel, where: tuple[str | int, ...] = ()) -> None:
    """Refuse what is known and not supported, here and inside; say once what has no effect."""
    for name in sorted(requested.model_fields_set & type(requested).model_fields.keys()):
        value, path = getattr(requested, name), (*where, name)
        for mark in type(requested).model_fields[name].metadata:
            if isinstance(mark, OnlyNeutral) and value is not None and value not in mark.values:
                message = f"{written(path)} = {short(value)} is not supported; {mark.instead}"
                raise RequestError(message, str(path[0]))
            if isinstance(mark, NoEffect) and value is not None:
                say_once(".".join(part for part in path if isinstance(part, str)), mark.reason)
        for place, inner in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(inner, BaseModel):
                _review(inner, path if place is None else (*path, place))
