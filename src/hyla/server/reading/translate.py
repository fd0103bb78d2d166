"""From the names of HTTP requests to the engine's: the one place that knows both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hyla.engine import Request, SamplingParams
from hyla.errors import FieldError, RequestError
from hyla.server.guard.keys import Sender
from hyla.server.guard.limits import Limits
from hyla.server.reading.mistakes import short
from hyla.server.schemas.chat import ChatRequest
from hyla.server.schemas.completions import CompletionRequest
from hyla.server.schemas.fields import Body
from hyla.server.schemas.messages import CountTokensRequest, MessageRequest
from hyla.server.schemas.responses import InputTokensRequest, ResponseRequest
from hyla.server.schemas.texts import DetokenizeRequest, EmbeddingRequest, ScoreRequest, TokenizeRequest

REQUEST_FIELDS = ("priority", "deadline_seconds", "cache_salt", "snapshot_at")
"""Fields of request bodies that `Request` has under the same name."""

THINKING_MARKS = ("thinking_start_ids", "thinking_end_ids", "thinking_is_open")

SHARED = (
    "temperature", "top_p", "top_k", "min_p", "n", "seed", "stop", "max_tokens", "min_tokens", "ignore_eos",
    "stop_token_ids", "presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias",
    "allowed_token_ids", "bad_words", "thinking_budget", "include_stop_str_in_output", "stop_in_thinking",
    "skip_special_tokens", "sampled_logprobs",
)  # fmt: skip
"""Sampling fields of requests that keep their name and meaning."""


def sampling_params(requested: Any, **own) -> SamplingParams:
    """The engine's parameters of a request body; `own` are fields of them that the route has worked out.

    Raises RequestError for values that cannot be.
    """
    fields = {name: getattr(requested, name) for name in SHARED if name in type(requested).model_fields} | own
    if not fields.get("stop") and fields.get("grammar") is None and fields.get("thinking_budget") is None:
        # Nothing depends on where thinking ends; following it would cost the engine something.
        fields = {name: value for name, value in fields.items() if name not in THINKING_MARKS}
    return SamplingParams(**in_engine(fields))


def in_engine(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are set, in the engine's form."""
    given = {name: value for name, value in fields.items() if value is not None}
    return {name: FORMS[name](value) if name in FORMS else value for name, value in given.items()}


def engine_request(
    name: str,
    prompt: str | tuple[int, ...],
    params: SamplingParams,
    requested: Body,
    *,
    sender: Sender,
    limits: Limits,
    **own,
) -> Request:
    """One prompt of a request body. sender: whose it is: keys share the engine fairly, and no cached states; own:
    fields of the engine's request that the route has worked out.

    Raises RequestError for a priority that would go before those of others.
    """
    known = type(requested).model_fields
    wanted = {field: getattr(requested, field) for field in REQUEST_FIELDS if field in known}
    _check_priority(wanted.get("priority"), sender, limits)
    wanted |= {"key": sender.client, "cache_salt": sender.salt(wanted.get("cache_salt"))}
    return Request(name, prompt, params, **in_engine(wanted | own))


def _check_priority(priority: int | None, sender: Sender, limits: Limits) -> None:
    most = limits.most_urgent_priority
    if priority is None or priority >= most or sender.is_admin or not sender.client:
        return
    message = f"priority = {priority} would go before the requests of other keys, which takes an admin key; give {most}"
    raise RequestError(f"{message} or more, or have the server's most_urgent_priority lowered", "priority")


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
    "snapshot_at": tuple,
}
"""Values whose form differs in the engine."""

CONSTRAINTS = (
    "response_format", "structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar",
)  # fmt: skip

CLIENT_NAMES: dict[type[Body], dict[str, tuple[str, ...]]] = {
    ChatRequest: {
        "prompt": ("messages",),
        "input": ("messages",),
        "max_tokens": ("max_completion_tokens", "max_tokens"),
        "logprobs": ("top_logprobs", "logprobs"),
        "grammar": (*CONSTRAINTS, "tools"),
        "thinking_start_ids": ("thinking_budget", "reasoning_effort"),
        "thinking_end_ids": ("thinking_budget", "reasoning_effort"),
        "thinking_is_open": ("thinking_budget", "reasoning_effort"),
    },
    CompletionRequest: {
        "messages": ("prompt",),
        "input": ("prompt",),
        "n": ("best_of", "n"),
        "grammar": CONSTRAINTS,
        "thinking_start_ids": ("thinking_budget",),
        "thinking_end_ids": ("thinking_budget",),
        "thinking_is_open": ("thinking_budget",),
    },
    ResponseRequest: {
        "prompt": ("input",),
        "messages": ("input",),
        "max_tokens": ("max_output_tokens",),
        "logprobs": ("top_logprobs", "include"),
        "grammar": ("text", "tools"),
        "thinking_start_ids": ("thinking_budget", "reasoning"),
        "thinking_end_ids": ("thinking_budget", "reasoning"),
        "thinking_is_open": ("thinking_budget", "reasoning"),
    },
    InputTokensRequest: {"prompt": ("input",), "messages": ("input",)},
    MessageRequest: {
        "prompt": ("messages",),
        "input": ("messages",),
        "stop": ("stop_sequences",),
        "grammar": ("output_config", "tools"),
        "thinking_budget": ("thinking",),
        "thinking_start_ids": ("thinking",),
        "thinking_end_ids": ("thinking",),
        "thinking_is_open": ("thinking",),
    },
    CountTokensRequest: {"prompt": ("messages",), "input": ("messages",)},
    EmbeddingRequest: {"prompt": ("input",), "messages": ("input",)},
    TokenizeRequest: {"messages": ("messages", "prompt"), "input": ("prompt",)},
    DetokenizeRequest: {"prompt": ("tokens",), "input": ("tokens",), "messages": ("tokens",)},
    ScoreRequest: {"prompt": ("input", "context"), "messages": ("input",)},
}
"""What each request body calls a field that an error names by the engine's word. Where there are several, the first
one that the client has sent is meant."""


TOOL_WORDS = {"form": "parameters of a tool", "place": ""}
"""Words for an error in the grammar that the server made of the tools: the client never saw it, nor a place in it."""

ANSWER_WORDS = {"form": "json schema", "place": ""}
"""The same for a schema of answers, which the server may have joined to a grammar of calls."""
ANSWER_FIELDS = ("response_format", "text", "output_config")


def client_name(requested: Body, name: str | None) -> str | None:
    """A field of this request for the engine's word; None when it has none."""
    if name is None:
        return None
    names = CLIENT_NAMES.get(type(requested), {}).get(name, (name,))
    known = [field for field in names if field in type(requested).model_fields]
    sent = (field for field in known if field in requested.model_fields_set and getattr(requested, field) is not None)
    return next(sent, known[0] if known else None)


@contextmanager
def in_client_names(requested: Body) -> Iterator[None]:
    """Request errors of what runs inside name the fields that the client knows."""
    try:
        yield
    except RequestError as error:
        param = client_name(requested, error.param)
        text = _told(error, requested, param) if isinstance(error, FieldError) else str(error)
        raise RequestError(text, param, error.code) from error


def _told(error: FieldError, requested: Body, param: str | None) -> str:
    """An error's text with the request's names in place of the engine's."""
    names = {name: client_name(requested, name) or name for name in CLIENT_NAMES.get(type(requested), {})}
    words = TOOL_WORDS if param == "tools" else ANSWER_WORDS if param in ANSWER_FIELDS else {}
    return error.told({**names, **words})
