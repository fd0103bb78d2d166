"""POST /v1/chat/completions."""

from __future__ import annotations

import uuid

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from hyla.errors import RequestError
from hyla.server.answering.answering import answer
from hyla.server.answering.reader import Choice
from hyla.server.guard.limits import Limits
from hyla.server.reading.body import parse, read_json
from hyla.server.reading.constraints import grammar_of
from hyla.server.reading.conversation import Conversation
from hyla.server.reading.prompts import check_choices, check_stream
from hyla.server.reading.tools import openai_tool_use
from hyla.server.reading.translate import engine_request, in_own_names, sampling_params
from hyla.server.schemas.chat import ChatRequest
from hyla.server.service import Service, client_of, service_of
from hyla.server.shapes.chat import ChatShape

router = APIRouter()


@router.post("/v1/chat/completions")
async def chat_completions(request: Request, client: str = Depends(client_of)) -> Response:
    service = service_of(request)
    asked = parse(ChatRequest, await read_json(request, service.limits))
    with in_own_names(asked):
        return await _answer(request, service, asked, client)


async def _answer(request: Request, service: Service, asked: ChatRequest, client: str) -> Response:
    served = service.model(asked.model)
    served.require_tokenizer("chat")
    check_stream(asked)
    conversation = _conversation(asked, service.limits)
    prompt = await run_in_threadpool(served.prompt, conversation)
    constraint = grammar_of(asked, service.limits)
    reading = served.format.reading(
        prompt.text,
        conversation.tools,
        constraint,
        budget=asked.thinking_budget,
        may_think=conversation.may_think,
    )
    params = sampling_params(
        asked,
        max_tokens=_max_tokens(asked),
        logprobs=_logprobs(asked),
        prompt_logprobs=asked.prompt_logprobs,
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
        wants_logprobs=bool(asked.logprobs),
        wants_usage=asked.wants_usage,
        wants_ids=bool(asked.return_token_ids),
        num_prompt_top=asked.prompt_logprobs,
        prefix=conversation.final_text() if asked.echo else "",
        shows_reasoning=asked.include_reasoning is not False,
    )
    shape.prompt_ids = [prompt.token_ids]
    own = engine_request(f"{answer_id}-0", prompt.token_ids, params, asked, key=client or None)
    return await answer(
        request, service, served, [own], shape, answer_id=answer_id, client=client, is_streamed=bool(asked.stream)
    )


def _conversation(asked: ChatRequest, limits: Limits) -> Conversation:
    if len(asked.messages) > limits.max_messages:
        raise RequestError(
            f"messages holds {len(asked.messages)} of them; at most {limits.max_messages} go at once", "messages"
        )
    if asked.continue_final_message and asked.add_generation_prompt:
        raise RequestError(
            "continue_final_message and add_generation_prompt exclude each other; give one", "continue_final_message"
        )
    return Conversation(
        [message.model_dump(exclude_unset=True) for message in asked.messages],
        openai_tool_use(asked, limits),
        effort_names(asked.reasoning_effort) | (asked.chat_template_kwargs or {}),
        asked.documents,
        bool(asked.continue_final_message),
        asked.add_generation_prompt is not False,
    )


def effort_names(effort: str | None) -> dict:
    """A reasoning effort as the names that published chat templates read."""
    if effort is None:
        return {}
    thinks = effort != "none"
    return {"reasoning_effort": effort, "enable_thinking": thinks, "thinking": thinks}


def _max_tokens(asked: ChatRequest) -> int | None:
    if None not in (asked.max_tokens, asked.max_completion_tokens) and asked.max_tokens != asked.max_completion_tokens:
        raise RequestError("max_tokens and max_completion_tokens differ; give one of them", "max_completion_tokens")
    return asked.max_tokens if asked.max_completion_tokens is None else asked.max_completion_tokens


def _logprobs(asked: ChatRequest) -> int | None:
    if asked.top_logprobs is not None and not asked.logprobs:
        raise RequestError("top_logprobs needs logprobs = true", "top_logprobs")
    return (asked.top_logprobs or 0) if asked.logprobs else None
