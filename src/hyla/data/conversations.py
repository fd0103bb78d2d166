"""Conversations as chat templates take them, and where in what a template writes an answer begins.

An answer is learnt behind what a server sends for it. Models that reason have two such prompts, with reasoning and
without; which of them an answer stands behind depends on whether it has any.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from hyla.checkpoints.templates.values import Arguments
from hyla.checkpoints.tokenizer import Tokenizer
from hyla.errors import RequestError

THINKING = {"enable_thinking": True, "thinking": True}
NO_THINKING = {"enable_thinking": False, "thinking": False}
"""The names that chat templates have for it."""
OPEN_TAG, CLOSING_TAG = "<think>", "</think>"
SIGNS = ("think", "reasoning")
"""A chat template of a model that reasons has one of them."""
TEXT_PARTS = ("text", "input_text", "output_text")
SHOWN_CHARS = 24
"""Of a prompt's end, in a reason."""


class Turn(NamedTuple):
    """One answer of a conversation."""

    prompt: str
    """What a server sends to the model."""
    answer: str
    """What the template writes behind it, up to the next message."""


def for_template(message: Mapping[str, Any], number: int) -> dict[str, Any]:
    """A message as servers give it to a template: content is one text, arguments are objects, reasoning is called
    reasoning_content. Raises RequestError for parts that are no text, and for arguments that are no object."""
    made = {name: value for name, value in message.items() if value is not None}
    made["content"] = _text_of(message.get("content"), number)
    reasoning = made.get("reasoning_content", made.get("reasoning"))
    if isinstance(reasoning, str):
        made["reasoning_content"] = reasoning
    if made.get("tool_calls"):
        made["tool_calls"] = [_call(call, number) for call in made["tool_calls"]]
    return made


def _text_of(content: Any, number: int) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    for part in content:
        if not (isinstance(part, Mapping) and part.get("type") in TEXT_PARTS and isinstance(part.get("text"), str)):
            raise RequestError(f"message {number}: a part of its content is no text; models here read text only")
    return "\n".join(part["text"] for part in content)


def _call(call: Any, number: int) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RequestError(f"message {number}: a tool call has no function.name")
    given = function.get("arguments")
    try:
        value = (json.loads(given) if given.strip() else {}) if isinstance(given, str) else given
    except (ValueError, RecursionError):
        value = given
    if value is not None and not isinstance(value, Mapping):
        raise RequestError(f"message {number}: the arguments of {function['name']} are no JSON object")
    return {**call, "function": {**function, "arguments": Arguments(value or {})}}


def turn_of(
    tokenizer: Tokenizer,
    messages: Sequence[dict[str, Any]],
    number: int,
    *,
    tools: list[dict] | None,
    names: Mapping[str, Any] | None,
) -> Turn:
    """The answer that is message `number`, behind what a server would have sent.

    names: what the client gives the template (`chat_template_kwargs`); None: reasoning is on for an answer that has
    some and off for others, where the template knows such a switch. Raises RequestError where the template does not
    write the answer, or not behind that prompt: then nothing that could be learnt would ever be asked for.
    """
    reason = ""
    for switches in _switches(tokenizer, messages[number], names):
        options: dict[str, Any] = {"tools": tools, **switches}
        prompt = tokenizer.render_chat(list(messages[:number]), add_generation_prompt=True, **options)
        whole = tokenizer.render_chat(list(messages[: number + 1]), add_generation_prompt=False, **options)
        found = _why_not(messages[number], prompt, whole, reasons=_knows_reasoning(tokenizer))
        if found is None:
            return Turn(prompt, whole[len(prompt) :])
        reason = reason or found
    raise RequestError(f"message {number}: the chat template {reason}")


def _switches(
    tokenizer: Tokenizer, message: Mapping[str, Any], names: Mapping[str, Any] | None
) -> Iterator[Mapping[str, Any]]:
    """What to try, the likelier first."""
    template = tokenizer.chat_template
    if names is not None:
        yield names
    elif template is None or not any(name in template.source for name in THINKING):
        yield {}
    elif _reasoning_of(message):
        yield from ({}, THINKING)
    else:
        yield from (NO_THINKING, {})


def _knows_reasoning(tokenizer: Tokenizer) -> bool:
    """Whether the model's answers have reasoning; where they have none, a message's is no part of its answer."""
    return tokenizer.chat_template is not None and any(sign in tokenizer.chat_template.source for sign in SIGNS)


def _reasoning_of(message: Mapping[str, Any]) -> str:
    """In a field of its own, or as the older data have it, in tags before the text."""
    reasoning = message.get("reasoning_content")
    if isinstance(reasoning, str) and reasoning.strip():
        return reasoning.strip()
    before, tag, _ = message["content"].rpartition(CLOSING_TAG)
    return before.rpartition(OPEN_TAG)[2].strip() if tag else ""


def _why_not(message: Mapping[str, Any], prompt: str, whole: str, *, reasons: bool) -> str | None:
    """Why the answer cannot be learnt from `whole`; None: it can."""
    if not whole.startswith(prompt):
        return (
            "writes what stands before it in another way than a server sends it, which ends in "
            f"{prompt[-SHOWN_CHARS:]!r}; give the answer reasoning_content, or its record chat_template_kwargs that "
            "turn reasoning off"
        )
    answer = whole[len(prompt) :]
    calls = [call["function"]["name"] for call in message.get("tool_calls") or ()]
    parts = {
        "reasoning": [_reasoning_of(message)] if reasons else [],
        "content": [message["content"].rpartition(CLOSING_TAG)[2].strip()],
        "tool calls": calls,
    }
    for name, texts in parts.items():
        if not all(text in answer for text in texts):
            return f"leaves its {name} out; use a tokenizer with another template, or leave such answers out"
    return None
