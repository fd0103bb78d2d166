"""POST /v1/chat/completions."""

from __future__ import annotations

import asyncio
import uuid

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from hyla.errors import RequestError
from hyla.server.answering.answering import answer
from hyla.server.guard.limits import Limits
from hyla.server.reading.body import read_body
from hyla.server.reading.constraints import grammar_of
from hyla.server.reading.conversation import Conversation
from hyla.server.reading.prompts import check_choices, check_stream, prompt_of, reading_of
from hyla.server.reading.skipped import Skipped
from hyla.server.reading.tools import openai_tool_use
from hyla.server.reading.translate import engine_request, in_client_names, sampling_params
from hyla.server.schemas.chat import ChatRequest
from hyla.server.service import Service, client_of, service_of
from hyla.server.shapes.chat import ChatShape
from hyla.server.shapes.choice import Choice

router = APIRouter()


@router.post("/v1/chat/completions")
async def chat_completions(request: Request, client: str = Depends(client_of)) -> Response:
    service = service_of(request)
    requested = await read_body(ChatRequest, request, service.limits)
    with in_client_names(requested):
        return await _answer(request, service, requested, client)


async def _answer(request: Request, service: Service, requested: ChatRequest, client: str) -> Response:
    served = service.model_or_only(requested.model)
    served.require_tokenizer("chat")
    check_stream(requested)
    conversation = await asyncio.to_thread(_conversation, requested, service.limits)
    prompt = await prompt_of(served, conversation)
    constraint = grammar_of(requested, service.limits)
    reading = await reading_of(served, prompt, conversation, constraint, budget=requested.thinking_budget)
    params = sampling_params(
        requested,
        max_tokens=_max_tokens(requested),
        logprobs=_logprobs(requested),
        prompt_logprobs=requested.prompt_logprobs,
        **reading.params,
    )
    check_choices(1, params.n, service.limits)
    answer_id = f"chatcmpl-{uuid.uuid4().hex}"
    most_calls = None if conversation.tools.is_parallel else 1
    shape = ChatShape(
        answer_id,
        served.name,
        served.tokenizer,
        [Choice(reading.parser(), most_calls) for _ in range(params.n)],
        params.n,
        wants_logprobs=bool(requested.logprobs),
        wants_usage=requested.wants_usage,
        wants_ids=bool(requested.return_token_ids),
        num_prompt_top=requested.prompt_logprobs,
        prefix=conversation.final_text() if requested.echo else "",
        shows_reasoning=requested.include_reasoning is not False,
    )
    shape.prompt_ids = [prompt.token_ids]
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


def _conversation(requested: ChatRequest, limits: Limits) -> Conversation:
    if len(requested.messages) > limits.max_messages:
        raise RequestError(
            f"messages holds {len(requested.messages)} of them; at most {limits.max_messages} go at once", "messages"
        )
    if requested.continue_final_message and requested.add_generation_prompt:
        raise RequestError(
            "continue_final_message and add_generation_prompt exclude each other; give one", "continue_final_message"
        )
    skipped = Skipped()
    return Conversation(
        [message.model_dump(exclude_unset=True) for message in requested.messages],
        openai_tool_use(requested, limits, skipped),
        effort_names(requested.reasoning_effort) | (requested.chat_template_kwargs or {}),
        requested.documents,
        bool(requested.continue_final_message),
        requested.add_generation_prompt is not False,
        skipped,
    )


def effort_names(effort: str | None) -> dict:
    """A reasoning effort as the names that published chat templates read."""
    if effort is None:
        return {}
    thinks = effort != "none"
    return {"reasoning_effort": effort, "enable_thinking": thinks, "thinking": thinks}


def _max_tokens(requested: ChatRequest) -> int | None:
    if (
        None not in (requested.max_tokens, requested.max_completion_tokens)
        and requested.max_tokens != requested.max_completion_tokens
    ):
        raise RequestError("max_tokens and max_completion_tokens differ; give one of them", "max_completion_tokens")
    return requested.max_tokens if requested.max_completion_tokens is None else requested.max_completion_tokens


def _logprobs(requested: ChatRequest) -> int | None:
    if requested.top_logprobs is not None and not requested.logprobs:
        raise RequestError("top_logprobs needs logprobs = true", "top_logprobs")
    return (requested.top_logprobs or 0) if requested.logprobs else None
