"""/v1/responses: make an answer, look a kept one up, forget it."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from hyla.answers.tools import ToolUse
from hyla.errors import RequestError
from hyla.server.answering.answering import answer
from hyla.server.guard.limits import Limits
from hyla.server.reading.body import read_body
from hyla.server.reading.constraints import format_grammar
from hyla.server.reading.content import text_of
from hyla.server.reading.conversation import Conversation
from hyla.server.reading.errors import HTTPFailure
from hyla.server.reading.mistakes import short
from hyla.server.reading.tools import tool_use
from hyla.server.reading.translate import engine_request, in_client_names, sampling_params
from hyla.server.routes.chat import effort_names
from hyla.server.schemas.generation import JsonSchemaFormat, ResponseFormat
from hyla.server.schemas.responses import (
    InputItem,
    InputTokensRequest,
    NamedFunction,
    ResponseRequest,
    TextOptions,
)
from hyla.server.schemas.tools import FunctionTool
from hyla.server.service import Service, client_of, service_of
from hyla.server.shapes.choice import Choice
from hyla.server.shapes.responses import ResponseShape

router = APIRouter()

LOGPROBS = "message.output_text.logprobs"
ECHOED = {"reasoning", "text", "tool_choice", "tools", "user"}
"""Fields that an answer repeats as they came."""


@router.post("/v1/responses")
async def responses(request: Request, client: str = Depends(client_of)) -> Response:
    service = service_of(request)
    requested = await read_body(ResponseRequest, request, service.limits)
    with in_client_names(requested):
        return await _answer(request, service, requested, client)


@router.post("/v1/responses/input_tokens")
async def count_input_tokens(request: Request, client: str = Depends(client_of)) -> JSONResponse:
    service = service_of(request)
    requested = await read_body(InputTokensRequest, request, service.limits)
    with in_client_names(requested):
        served = service.model_or_only(requested.model)
        _, conversation = await asyncio.to_thread(_conversation, requested, service, client)
        prompt = await run_in_threadpool(served.prompt, conversation)
    return JSONResponse({"object": "response.input_tokens", "input_tokens": len(prompt.token_ids)})


async def _answer(request: Request, service: Service, requested: ResponseRequest, client: str) -> Response:
    served = service.model_or_only(requested.model)
    served.require_tokenizer("responses")
    messages, conversation = await asyncio.to_thread(_conversation, requested, service, client)
    prompt = await run_in_threadpool(served.prompt, conversation)
    constraint = _grammar(requested.text, service.limits)
    reading = served.format.reading(
        prompt.text,
        conversation.tools,
        constraint,
        budget=requested.thinking_budget,
        may_think=conversation.may_think,
        is_continued=conversation.continues_final_message,
    )
    wants_logprobs = requested.top_logprobs is not None or LOGPROBS in (requested.include or ())
    params = sampling_params(
        requested,
        max_tokens=requested.max_output_tokens,
        logprobs=(requested.top_logprobs or 0) if wants_logprobs else None,
        **reading.params,
    )
    answer_id = f"resp_{uuid.uuid4().hex}"

    def keep(body: dict, message: dict) -> None:
        if requested.store is not False:
            service.stored.add(body, [*messages, message], client)

    shape = ResponseShape(
        answer_id,
        served.name,
        served.tokenizer,
        Choice(reading.parser(), None if conversation.tools.is_parallel else 1),
        echo=_echo(requested),
        wants_logprobs=wants_logprobs,
        on_done=keep,
    )
    for_engine = engine_request(f"{answer_id}-0", prompt.token_ids, params, requested, key=client or None)
    return await answer(
        request,
        service,
        served,
        [for_engine],
        shape,
        answer_id=answer_id,
        client=client,
        is_streamed=bool(requested.stream),
    )


@router.get("/v1/responses/{response_id}")
async def stored_response(request: Request, response_id: str, client: str = Depends(client_of)) -> JSONResponse:
    found = service_of(request).stored.get(response_id, client)
    if found is None:
        raise _not_kept(response_id, "response_id")
    return JSONResponse(found.body)


@router.delete("/v1/responses/{response_id}")
async def forget_response(request: Request, response_id: str, client: str = Depends(client_of)) -> JSONResponse:
    if not service_of(request).stored.delete(response_id, client):
        raise _not_kept(response_id, "response_id")
    return JSONResponse({"id": response_id, "object": "response.deleted", "deleted": True})


def _not_kept(response_id: str, param: str) -> HTTPFailure:
    message = f"{param} {response_id!r} is not kept here; answers stay in memory for a while, unless store is false"
    return HTTPFailure(404, message, param=param, code="previous_response_not_found")


def _conversation(requested: InputTokensRequest, service: Service, client: str) -> tuple[list[dict], Conversation]:
    """The messages to keep, and what the model is asked."""
    messages = [*_earlier(requested, service, client), *_messages(requested)]
    if len(messages) > service.limits.max_messages:
        raise RequestError(
            f"the conversation has {len(messages)} messages; at most {service.limits.max_messages} go at once", "input"
        )
    tools = _tools(requested, service.limits)
    return messages, Conversation(_with_instructions(requested, messages), tools, _names(requested))


def _earlier(requested: InputTokensRequest, service: Service, client: str) -> list[dict[str, Any]]:
    if requested.previous_response_id is None:
        return []
    found = service.stored.get(requested.previous_response_id, client)
    if found is None:
        raise _not_kept(requested.previous_response_id, "previous_response_id")
    return found.messages


def _with_instructions(requested: InputTokensRequest, messages: list[dict]) -> list[dict]:
    """Instructions are this request's own: they are not kept with the conversation."""
    return [{"role": "system", "content": requested.instructions}, *messages] if requested.instructions else messages


def _messages(requested: InputTokensRequest) -> list[dict[str, Any]]:
    """Input items in chat form: calls and reasoning join the assistant message that they belong to."""
    if isinstance(requested.input, str):
        return [{"role": "user", "content": requested.input}]
    messages: list[dict[str, Any]] = []
    for n, item in enumerate(requested.input):
        _add_item(messages, item, f"input[{n}]")
    if not messages:
        raise RequestError("input is an empty list; give a message", "input")
    return messages


def _add_item(messages: list[dict[str, Any]], item: InputItem, where: str) -> None:
    """Add one item; where: its place in the request, for people."""
    fields = item.model_extra or {}
    kind = item.type or "message"
    if kind == "message":
        _add_message(messages, item, where)
    elif kind == "function_call":
        call = {"name": _text(fields, "name", where, kind), "arguments": _text(fields, "arguments", where, kind)}
        called = {"id": _text(fields, "call_id", where, kind), "type": "function", "function": call}
        _assistant(messages).setdefault("tool_calls", []).append(called)
    elif kind == "function_call_output":
        output = fields.get("output")
        if not isinstance(output, str | list):
            raise RequestError(f"{where} needs output, a text or a list of parts", "input")
        text = text_of(output, f"{where}.output", "input")
        messages.append({"role": "tool", "tool_call_id": _text(fields, "call_id", where, kind), "content": text})
    elif kind == "reasoning":
        parts = item.content if isinstance(item.content, list) else []
        given = (part.get("text") for part in parts)
        texts = [text for text in given if isinstance(text, str)]
        if texts:
            messages.append({"role": "assistant", "content": "", "reasoning_content": "\n".join(texts)})
    elif kind == "item_reference":
        raise RequestError(f"{where} refers to a kept item; send the item, or previous_response_id", "input")
    else:
        message = f"{where} is an item of type {short(kind)}, which is not supported here; leave it out"
        raise RequestError(message, "input")


def _add_message(messages: list[dict[str, Any]], item: InputItem, where: str) -> None:
    if item.role is None:
        raise RequestError(f"{where} is a message without its role; add it", "input")
    content = text_of(item.content, f"{where}.content", "input")
    last = messages[-1] if messages else {}
    if item.role == "assistant" and last.get("role") == "assistant" and not last.get("content"):
        last["content"] = content
    else:
        messages.append({"role": item.role, "content": content})


def _assistant(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """The assistant message at the end, a new one if there is none."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": ""})
    return messages[-1]


def _text(fields: dict, name: str, where: str, kind: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise RequestError(f"{where}, an item of type {short(kind)}, needs {name}, a text", "input")
    return value


def _tools(requested: InputTokensRequest, limits: Limits) -> ToolUse:
    tools = [
        FunctionTool(name=tool.name, description=tool.description, parameters=tool.parameters, strict=tool.strict)
        for tool in requested.tools or ()
    ]
    choice = requested.tool_choice
    if isinstance(choice, NamedFunction):
        return tool_use(tools, "required", False, limits).narrowed([choice.name], "required")
    if choice is None or isinstance(choice, str):
        return tool_use(tools, choice, requested.parallel_tool_calls, limits)
    names = [str(entry.get("name")) for entry in choice.tools]
    return tool_use(tools, choice.mode, requested.parallel_tool_calls, limits).narrowed(names, choice.mode)


def _names(requested: InputTokensRequest) -> dict[str, Any]:
    return effort_names(requested.reasoning.effort if requested.reasoning else None) | (
        requested.chat_template_kwargs or {}
    )


def _grammar(text: TextOptions | None, limits: Limits) -> dict | None:
    if text is None or text.format is None:
        return None
    form = text.format
    schema = JsonSchemaFormat.model_validate({"schema": form.schema_}) if form.type == "json_schema" else None
    wanted = ResponseFormat(type=form.type, json_schema=schema)
    return format_grammar(wanted, limits, "text")


def _echo(requested: ResponseRequest) -> dict[str, Any]:
    """What an answer repeats of its request."""
    given = requested.model_dump(mode="json", by_alias=True, exclude_none=True, include=ECHOED)
    return {
        "background": False,
        "instructions": requested.instructions,
        "max_output_tokens": requested.max_output_tokens,
        "metadata": requested.metadata or {},
        "parallel_tool_calls": requested.parallel_tool_calls is not False,
        "previous_response_id": requested.previous_response_id,
        "reasoning": {"effort": None, "summary": None} | given.get("reasoning", {}),
        "store": requested.store is not False,
        "temperature": requested.temperature if requested.temperature is not None else 1.0,
        "text": {"format": {"type": "text"}} | given.get("text", {}),
        "tool_choice": given.get("tool_choice", "auto"),
        "tools": given.get("tools", []),
        "top_logprobs": requested.top_logprobs or 0,
        "top_p": requested.top_p if requested.top_p is not None else 1.0,
        "truncation": "disabled",
        "user": given.get("user"),
    }
