"""Anthropic's /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from hyla.answers.tools import ToolUse
from hyla.errors import RequestError
from hyla.server.answering.answering import answer
from hyla.server.guard.limits import Limits
from hyla.server.reading.body import read_body
from hyla.server.reading.constraints import format_grammar
from hyla.server.reading.content import text_of
from hyla.server.reading.conversation import Conversation
from hyla.server.reading.prompts import prompt_of, reading_of
from hyla.server.reading.skipped import Skipped
from hyla.server.reading.tools import own_tools, tool_use
from hyla.server.reading.translate import engine_request, in_client_names, sampling_params
from hyla.server.reading.turns import TurnReader
from hyla.server.schemas.generation import JsonSchemaFormat, ResponseFormat
from hyla.server.schemas.messages import Block, CountTokensRequest, MessageRequest, MessageTool
from hyla.server.schemas.tools import FunctionTool
from hyla.server.service import Service, client_of, service_of
from hyla.server.shapes.choice import Choice
from hyla.server.shapes.messages import MessageShape

router = APIRouter()

TOOL_SEARCH = "tool_search"
"""The beginning of the types of hosted tools that find others."""


@router.post("/v1/messages")
async def messages(request: Request, client: str = Depends(client_of)) -> Response:
    service = service_of(request)
    requested = await read_body(MessageRequest, request, service.limits)
    with in_client_names(requested):
        return await _answer(request, service, requested, client)


async def _answer(request: Request, service: Service, requested: MessageRequest, client: str) -> Response:
    served = service.model_or_only(requested.model)
    served.require_tokenizer("messages")
    conversation = await asyncio.to_thread(_conversation, requested, service.limits)
    prompt = await prompt_of(served, conversation)
    constraint = _grammar(requested, service.limits)
    # A model without known thinking may be asked to think: clients send it to every model.
    thinking = requested.thinking if served.format.thinking_ids is not None else None
    budget = thinking.budget_tokens if thinking is not None else None
    reading = await reading_of(served, prompt, conversation, constraint, budget=budget)
    params = sampling_params(requested, stop=requested.stop_sequences or None, **reading.params)
    answer_id = f"msg_{uuid.uuid4().hex}"
    shape = MessageShape(
        answer_id,
        served.name,
        Choice(reading.parser(), None if conversation.tools.is_parallel else 1),
        num_prompt_tokens=len(prompt.token_ids),
        shows_thinking=requested.thinking is None
        or (requested.thinking.type != "disabled" and requested.thinking.display != "omitted"),
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


@router.post("/v1/messages/count_tokens")
async def count_tokens(request: Request, client: str = Depends(client_of)) -> JSONResponse:
    service = service_of(request)
    requested = await read_body(CountTokensRequest, request, service.limits)
    served = service.model_or_only(requested.model)
    with in_client_names(requested):
        conversation = await asyncio.to_thread(_conversation, requested, service.limits)
        prompt = await prompt_of(served, conversation)
    return JSONResponse({"input_tokens": len(prompt.token_ids)}, headers=conversation.skipped.headers)


def _conversation(requested: CountTokensRequest, limits: Limits) -> Conversation:
    if len(requested.messages) > limits.max_messages:
        raise RequestError(
            f"messages holds {len(requested.messages)} of them; at most {limits.max_messages} go at once", "messages"
        )
    made: list[dict[str, Any]] = []
    if requested.system:
        made.append({"role": "system", "content": _system(requested.system)})
    skipped = Skipped()
    tools = own_tools(requested.tools or (), limits, skipped)
    reader = TurnReader(skipped, _deferred(tools, skipped))
    for n, turn in enumerate(requested.messages):
        made += reader.messages(turn, f"messages[{n}].content")
    hidden = reader.deferred.keys() - reader.referred - {requested.tool_choice and requested.tool_choice.name}
    told = [_function(tool) for tool in tools if tool.name not in hidden]
    # A last message of the assistant is the start of the answer.
    continues = made[-1]["role"] == "assistant" and bool(made[-1].get("content"))
    return Conversation(
        made,
        _tool_use(requested, told, limits, reader),
        _names(requested),
        continues_final_message=continues,
        skipped=skipped,
    )


def _names(requested: CountTokensRequest) -> dict[str, Any]:
    names: dict[str, Any] = {}
    if requested.thinking is not None:
        thinks = requested.thinking.type != "disabled"
        names = {"enable_thinking": thinks, "thinking": thinks}
    if requested.output_config is not None and requested.output_config.effort is not None:
        names["reasoning_effort"] = requested.output_config.effort
    return names | (requested.chat_template_kwargs or {})


def _system(content: str | list[Block]) -> str:
    return text_of(
        content if isinstance(content, str) else [block.model_dump() for block in content], "system", "system"
    )


def _deferred(tools: Sequence[MessageTool], skipped: Skipped) -> dict[str, FunctionTool]:
    """Tools that the model is told of once a result refers to them. None where a hosted tool would find them, or where
    there is no other."""
    deferred = {tool.name: _function(tool) for tool in tools if tool.defer_loading}
    is_hosted = any(kind.startswith(TOOL_SEARCH) for kind in skipped.tool_names.values())
    return {} if is_hosted or len(deferred) == len(tools) else deferred


def _function(tool: MessageTool) -> FunctionTool:
    return FunctionTool(name=tool.name, description=tool.description, parameters=tool.input_schema, strict=tool.strict)


def _tool_use(requested: CountTokensRequest, tools: list[FunctionTool], limits: Limits, reader: TurnReader) -> ToolUse:
    choice, skipped = requested.tool_choice, reader.skipped
    more = {"skipped": skipped, "untold": reader.referred}
    if choice is None:
        return tool_use(tools, None, True, limits, **more)
    is_parallel = not choice.disable_parallel_tool_use
    if choice.type == "tool":
        if choice.name is None:
            raise RequestError("tool_choice of type 'tool' needs the tool's name", "tool_choice")
        skipped.check_choice(choice.name)
        return tool_use(tools, "required", is_parallel, limits, **more).narrowed([choice.name], "required")
    return tool_use(tools, "required" if choice.type == "any" else choice.type, is_parallel, limits, **more)


def _grammar(requested: MessageRequest, limits: Limits) -> dict | None:
    if requested.output_config is None or requested.output_config.format is None:
        return None
    schema = JsonSchemaFormat.model_validate({"schema": requested.output_config.format.schema_})
    return format_grammar(ResponseFormat(type="json_schema", json_schema=schema), limits, "output_config")
