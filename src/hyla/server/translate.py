"""From the names of HTTP requests to the engine's. The one file to change when the engine learns a field.

A field of `TO_COME` that `SamplingParams` or `Request` has is handed to the engine. One that they do not have is
refused by name, except with a value that asks for nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from hyla.engine import Request, SamplingParams
from hyla.errors import RequestError
from hyla.server.body import short

ENGINE_PARAMS = frozenset(SamplingParams.model_fields)
ENGINE_REQUEST = frozenset(field.name for field in dataclasses.fields(Request))

TO_COME: Mapping[str, Any] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "logit_bias": ({},),
    "allowed_token_ids": (),
    "bad_words": ((),),
    "thinking_budget": (),
    "thinking_start_ids": ...,
    "thinking_end_ids": ...,
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "grammar": (),
}
"""Sampling fields by their name here and in the engine, with the values at which they ask for nothing.

... stands for any value: where thinking begins and ends is of use only to an engine that constrains what follows it.
"""

REQUEST_FIELDS: Mapping[str, Any] = {
    "priority": (0,),
    "deadline_seconds": (),
    # Without a prefix cache nothing is shared between requests, which is all that a salt and a key ask for.
    "cache_salt": ...,
    "key": ...,
}
"""The same for fields of `Request`; ... stands for any value."""

THINKING_MARKS = ("thinking_start_ids", "thinking_end_ids")

SHARED = (
    "temperature", "top_p", "top_k", "min_p", "n", "seed", "stop", "max_tokens", "min_tokens", "ignore_eos",
    "stop_token_ids", "presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias",
    "allowed_token_ids", "bad_words", "thinking_budget", "include_stop_str_in_output", "skip_special_tokens",
)  # fmt: skip
"""Sampling fields of requests that keep their name and meaning."""


def sampling_params(asked: Any, *, known: frozenset[str] = ENGINE_PARAMS, **own) -> SamplingParams:
    """The engine's parameters of a request body; `own` are fields of them that the route has worked out.

    Raises RequestError for values that cannot be and for fields that this engine does not have.
    """
    fields = {name: getattr(asked, name) for name in SHARED if name in type(asked).model_fields} | own
    if fields.get("grammar") is None and fields.get("thinking_budget") is None:
        # Nobody asks where thinking ends; following it would cost the engine something.
        fields = {name: value for name, value in fields.items() if name not in THINKING_MARKS}
    return SamplingParams(**known_fields(fields, known))


def known_fields(fields: Mapping[str, Any], known: frozenset[str] = ENGINE_PARAMS) -> dict[str, Any]:
    """What is set and the engine has, in the engine's form."""
    chosen = {}
    for name, value in fields.items():
        if value is None:
            continue
        value = FORMS[name](value) if name in FORMS else value
        if name in known:
            chosen[name] = value
        elif TO_COME[name] is not ... and value not in TO_COME[name]:
            raise _unsupported(name, value)
    return chosen


def engine_request(
    name: str, prompt: str | tuple[int, ...], params: SamplingParams, asked: Any = None, *, key: str | None = None
) -> Request:
    """One prompt of a request body. key: of the client, for fairness between them."""
    own = type(asked).model_fields if asked is not None else ()
    wanted = {field: getattr(asked, field) for field in REQUEST_FIELDS if field in own} | {"key": key}
    fields = {}
    for field, value in wanted.items():
        if value is None:
            continue
        if field in ENGINE_REQUEST:
            fields[field] = value
        elif REQUEST_FIELDS[field] is not ... and value not in REQUEST_FIELDS[field]:
            raise _unsupported(field, value)
    return Request(name, prompt, params, **fields)


def _unsupported(name: str, value: Any) -> RequestError:
    # A grammar's text was made here from several fields; the route says which.
    said = name if name == "grammar" else f"{name} = {short(value)}"
    return RequestError(f"{said} is not supported by this server's engine; leave it out", name)


def _seed(value: int) -> int:
    return value % (1 << 64)  # OpenAI's seeds may be negative


def _top_k(value: int) -> int:
    return 0 if value == -1 else value  # other engines write "all" so


def _logit_bias(value: Mapping[str, float]) -> dict[int, float]:
    if not all(name.isascii() and name.isdigit() and len(name) < 10 for name in value):
        raise RequestError(f"logit_bias = {short(value)}: its names must be token ids", "logit_bias")
    return {int(name): bias for name, bias in value.items()}


FORMS = {
    "seed": _seed,
    "top_k": _top_k,
    "logit_bias": _logit_bias,
    "stop": lambda value: (value,) if isinstance(value, str) else tuple(value),
    "bad_words": tuple,
    "allowed_token_ids": tuple,
    "stop_token_ids": tuple,
}
"""Values whose form differs in the engine."""

# The engine's grammar field, a union tagged by `type`. Nothing else knows its shape.


def json_schema_grammar(schema: dict) -> dict:
    return {"type": "json_schema", "json_schema": schema}


def json_object_grammar() -> dict:
    return {"type": "json_object"}


def regex_grammar(pattern: str) -> dict:
    return {"type": "regex", "pattern": pattern}


def text_grammar(text: str) -> dict:
    """A grammar in Lark's notation or, where it defines a rule with ::=, in GBNF."""
    return {"type": "ebnf" if "::=" in text else "lark", "text": text}


def choice_grammar(choices: list[str]) -> dict:
    return {"type": "choice", "options": tuple(choices)}
