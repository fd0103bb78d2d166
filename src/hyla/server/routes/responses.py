"""/v1/responses: make an answer, look a kept one up, forget it."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from hyla.errors import RequestError
from hyla.server.answering.answering import answer
from hyla.server.guard.limits import Limits
from hyla.server.reading.body import read_body
from hyla.server.reading.constraints import format_grammar
from hyla.server.reading.conversation import Conversation
from hyla.server.reading.errors import HTTPFailure
from hyla.server.reading.functions import Function, functions_of, response_tool_use
from hyla.server.reading.items import ItemReader
from hyla.server.reading.prompts import prompt_of, reading_of
from hyla.server.reading.skipped import Skipped
from hyla.server.reading.translate import engine_request, in_client_names, sampling_params
from hyla.server.routes.chat import effort_names
from hyla.server.schemas.generation import JsonSchemaFormat, ResponseFormat
from hyla.server.schemas.responses import NAMESPACE, InputTokensRequest, ResponseRequest, TextOptions
from hyla.server.service import Service, client_of, service_of
from hyla.server.shapes.choice import Choice
from hyla.server.shapes.responses import ResponseShape

router = APIRouter()

LOGPROBS = "message.output_text.logprobs"
SEALED_REASONING = "reasoning.encrypted_content"
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
        _, conversation, _ = await asyncio.to_thread(_conversation, requested, service, client)
        prompt = await prompt_of(served, conversation)
    body = {"object": "response.input_tokens", "input_tokens": len(prompt.token_ids)}
    return JSONResponse(body, headers=conversation.skipped.headers)


async def _answer(request: Request, service: Service, requested: ResponseRequest, client: str) -> Response:
    served = service.model_or_only(requested.model)
    served.require_tokenizer("responses")
    messages, conversation, functions = await asyncio.to_thread(_conversation, requested, service, client)
    prompt = await prompt_of(served, conversation)
    constraint = _grammar(requested.text, service.limits)
    reading = await reading_of(served, prompt, conversation, constraint, budget=requested.thinking_budget)
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
        functions={function.name: function for function in functions},
        seals_reasoning=SEALED_REASONING in (requested.include or ()),
    )
    for_engine = engine_request(
        f"{answer_id}-0",
        prompt.token_ids,
        params,
        requested,
        sender=service.keys.sender(client),
        limits=service.limits,
    )
    return await answer(
        request,
        service,
        served,
        [for_engine],
        shape,
        answer_id=answer_id,
        client=client,
        is_streamed=bool(requested.stream),
        headers=conversation.skipped.headers,
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


def _conversation(
    requested: InputTokensRequest, service: Service, client: str
) -> tuple[list[dict], Conversation, list[Function]]:
    """The messages to keep, what the model is asked, and the functions that it may call."""
    skipped = Skipped()
    messages = [*_earlier(requested, service, client), *_messages(requested, skipped, service, client)]
    if len(messages) > service.limits.max_messages:
        raise RequestError(
            f"the conversation has {len(messages)} messages; at most {service.limits.max_messages} go at once", "input"
        )
    functions = functions_of(requested, service.limits, skipped)
    tools = response_tool_use(requested, functions, service.limits, skipped)
    conversation = Conversation(_with_instructions(requested, messages), tools, _names(requested), skipped=skipped)
    return messages, conversation, functions


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


def _messages(requested: InputTokensRequest, skipped: Skipped, service: Service, client: str) -> list[dict[str, Any]]:
    """Input items in chat form."""
    if isinstance(requested.input, str):
        return [{"role": "user", "content": requested.input}]
    messages = ItemReader(skipped, lambda name: service.stored.item(name, client)).read(requested.input)
    if not messages:
        what = "is an empty list" if not requested.input else "holds nothing that this model can be shown"
        raise RequestError(f"input {what}; give a message", "input")
    return messages


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
        "tools": [tool for tool in given.get("tools", []) if tool["type"] in ("function", NAMESPACE)],
        "top_logprobs": requested.top_logprobs or 0,
        "top_p": requested.top_p if requested.top_p is not None else 1.0,
        "truncation": "disabled",
        "user": given.get("user"),
    }
