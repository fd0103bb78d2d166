"""Anthropic's /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

import asyncio
import json
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
from hyla.server.reading.content import part_text, text_of
from hyla.server.reading.conversation import Conversation
from hyla.server.reading.tools import tool_use
from hyla.server.reading.translate import engine_request, in_client_names, sampling_params
from hyla.server.schemas.generation import JsonSchemaFormat, ResponseFormat
from hyla.server.schemas.messages import Block, CountTokensRequest, MessageRequest, Turn
from hyla.server.schemas.tools import FunctionTool
from hyla.server.service import Service, client_of, service_of
from hyla.server.shapes.choice import Choice
from hyla.server.shapes.messages import MessageShape

router = APIRouter()


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
    prompt = await run_in_threadpool(served.prompt, conversation)
    constraint = _grammar(requested, service.limits)
    # A model without known thinking may be asked to think: clients send it to every model.
    thinking = requested.thinking if served.format.thinking_ids is not None else None
    reading = served.format.reading(
        prompt.text,
        conversation.tools,
        constraint,
        budget=thinking.budget_tokens if thinking is not None else None,
        may_think=conversation.may_think,
        is_continued=conversation.continues_final_message,
    )
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


@router.post("/v1/messages/count_tokens")
async def count_tokens(request: Request, client: str = Depends(client_of)) -> JSONResponse:
    service = service_of(request)
    requested = await read_body(CountTokensRequest, request, service.limits)
    served = service.model_or_only(requested.model)
    with in_client_names(requested):
        conversation = await asyncio.to_thread(_conversation, requested, service.limits)
        prompt = await run_in_threadpool(served.prompt, conversation)
    return JSONResponse({"input_tokens": len(prompt.token_ids)})


def _conversation(requested: CountTokensRequest, limits: Limits) -> Conversation:
    if len(requested.messages) > limits.max_messages:
        raise RequestError(
            f"messages holds {len(requested.messages)} of them; at most {limits.max_messages} go at once", "messages"
        )
    made: list[dict[str, Any]] = []
    if requested.system:
        made.append({"role": "system", "content": _system(requested.system)})
    for n, turn in enumerate(requested.messages):
        made += _turn(turn, f"messages[{n}].content")
    # A last message of the assistant is the start of the answer.
    continues = requested.messages[-1].role == "assistant" and bool(made[-1].get("content"))
    return Conversation(made, _tools(requested, limits), _names(requested), continues_final_message=continues)


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


def _field(block: Block, name: str, where: str) -> str:
    value = (block.model_extra or {}).get(name)
    if not isinstance(value, str):
        raise RequestError(f"{where}, a content block of type {block.type!r}, needs {name}, a text", "messages")
    return value


def _turn(turn: Turn, where: str) -> list[dict[str, Any]]:
    """One of Anthropic's turns as chat messages: results of tools are messages of their own and come first.

    where: the place of its content in the request, for people.
    """
    if isinstance(turn.content, str):
        return [{"role": turn.role, "content": turn.content}]
    texts, results, calls, thoughts = [], [], [], []
    for n, block in enumerate(turn.content):
        place = f"{where}[{n}]"
        if block.type == "tool_result":
            results.append(_result(block, place))
        elif block.type == "tool_use":
            calls.append(_call(block, place))
        elif block.type == "thinking":
            thoughts.append(_field(block, "thinking", place))
        elif block.type != "redacted_thinking":
            texts.append(part_text(block.model_dump(), place, "messages"))
    if not (texts or calls or thoughts):
        return results or [{"role": turn.role, "content": ""}]
    message: dict[str, Any] = {"role": turn.role, "content": "\n".join(texts)}
    if thoughts:
        message["reasoning_content"] = "\n".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return [*results, message]


def _result(block: Block, where: str) -> dict[str, Any]:
    content = (block.model_extra or {}).get("content")
    if content is not None and not isinstance(content, str | list):
        raise RequestError(f"{where}.content is neither a text nor a list of blocks; send one of them", "messages")
    text = text_of(content, f"{where}.content")
    return {"role": "tool", "tool_call_id": _field(block, "tool_use_id", where), "content": text}


def _call(block: Block, where: str) -> dict[str, Any]:
    given = (block.model_extra or {}).get("input")
    if not isinstance(given, dict):
        raise RequestError(f"{where}, a content block of type 'tool_use', needs input, an object", "messages")
    function = {"name": _field(block, "name", where), "arguments": json.dumps(given, ensure_ascii=False)}
    return {"id": _field(block, "id", where), "type": "function", "function": function}


def _tools(requested: CountTokensRequest, limits: Limits) -> ToolUse:
    tools = [
        FunctionTool(name=tool.name, description=tool.description, parameters=tool.input_schema, strict=tool.strict)
        for tool in requested.tools or ()
    ]
    choice = requested.tool_choice
    if choice is None:
        return tool_use(tools, None, True, limits)
    is_parallel = not choice.disable_parallel_tool_use
    if choice.type == "tool":
        if choice.name is None:
            raise RequestError("tool_choice of type 'tool' needs the tool's name", "tool_choice")
        return tool_use(tools, "required", is_parallel, limits).narrowed([choice.name], "required")
    return tool_use(tools, "required" if choice.type == "any" else choice.type, is_parallel, limits)


def _grammar(requested: MessageRequest, limits: Limits) -> dict | None:
    if requested.output_config is None or requested.output_config.format is None:
        return None
    schema = JsonSchemaFormat.model_validate({"schema": requested.output_config.format.schema_})
    return format_grammar(ResponseFormat(type="json_schema", json_schema=schema), limits, "output_config")
