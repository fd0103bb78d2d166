"""From the names of HTTP requests to the engine's: the one place that knows both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyla.engine import Request, SamplingParams
from hyla.errors import RequestError
from hyla.server.body import short

REQUEST_FIELDS = ("priority", "deadline_seconds", "cache_salt")
"""Fields of request bodies that `Request` has under the same name."""

THINKING_MARKS = ("thinking_start_ids", "thinking_end_ids")

SHARED = (
    "temperature", "top_p", "top_k", "min_p", "n", "seed", "stop", "max_tokens", "min_tokens", "ignore_eos",
    "stop_token_ids", "presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias",
    "allowed_token_ids", "bad_words", "thinking_budget", "include_stop_str_in_output", "skip_special_tokens",
)  # fmt: skip
"""Sampling fields of requests that keep their name and meaning."""


def sampling_params(asked: Any, **own) -> SamplingParams:
    """The engine's parameters of a request body; `own` are fields of them that the route has worked out.

    Raises RequestError for values that cannot be.
    """
    fields = {name: getattr(asked, name) for name in SHARED if name in type(asked).model_fields} | own
    if fields.get("grammar") is None and fields.get("thinking_budget") is None:
        # Nobody asks where thinking ends; following it would cost the engine something.
        fields = {name: value for name, value in fields.items() if name not in THINKING_MARKS}
    return SamplingParams(**in_engine(fields))


def in_engine(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What is set, in the engine's form."""
    given = {name: value for name, value in fields.items() if value is not None}
    return {name: FORMS[name](value) if name in FORMS else value for name, value in given.items()}


def engine_request(
    name: str, prompt: str | tuple[int, ...], params: SamplingParams, asked: Any = None, *, key: str | None = None
) -> Request:
    """One prompt of a request body. key: of the client, for fairness between them."""
    own = type(asked).model_fields if asked is not None else ()
    wanted = {field: getattr(asked, field) for field in REQUEST_FIELDS if field in own} | {"key": key}
    return Request(name, prompt, params, **{field: value for field, value in wanted.items() if value is not None})


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
