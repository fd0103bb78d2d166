"""POST /v1/embeddings, /tokenize, /detokenize, /score."""

from __future__ import annotations

import asyncio
import base64
import math
import struct
import uuid
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from hyla.checkpoints import Tokenizer
from hyla.engine import EmbedCommand, SamplingParams, TokenLogprob
from hyla.errors import RequestError
from hyla.server.answering.answering import gather
from hyla.server.guard.limits import Limits
from hyla.server.reading.body import read_body
from hyla.server.reading.conversation import Conversation
from hyla.server.reading.prompts import check_logprobs, encode, prompt_of
from hyla.server.reading.skipped import Skipped
from hyla.server.reading.tools import own_tools, tool_use
from hyla.server.reading.translate import engine_request, in_client_names
from hyla.server.schemas.texts import DetokenizeRequest, EmbeddingRequest, ScoreRequest, TokenizeRequest
from hyla.server.served import ServedModel
from hyla.server.service import Service, client_of, service_of
from hyla.server.shapes.openai import scored_body

router = APIRouter()


def _texts(given: str | Sequence, limits: Limits) -> list[str | tuple[int, ...]]:
    """The texts, each a string or token ids. Raises RequestError for none or too many."""
    if isinstance(given, str):
        return [given]
    if not given:
        raise RequestError("input is an empty list; give a text or token ids", "input")
    if isinstance(given[0], int):
        return [tuple(given)]
    if len(given) > limits.max_prompts:
        raise RequestError(f"input holds {len(given)} texts; at most {limits.max_prompts} go at once", "input")
    return [text if isinstance(text, str) else tuple(text) for text in given]


@router.post("/v1/embeddings")
async def embeddings(request: Request, client: str = Depends(client_of)) -> JSONResponse:
    service = service_of(request)
    requested = await read_body(EmbeddingRequest, request, service.limits)
    with in_client_names(requested):
        return await _embeddings(service, requested, client)


async def _embeddings(service: Service, requested: EmbeddingRequest, client: str) -> JSONResponse:
    served = service.model_or_only(requested.model)
    width = served.worker.facts.hidden_dim
    if requested.dimensions is not None and requested.dimensions > width:
        raise RequestError(
            f"dimensions = {requested.dimensions}; this model's vectors have {width}, ask for fewer", "dimensions"
        )
    texts = _texts(requested.input, service.limits)
    with service.turn(client):
        ids = await encode(
            served, texts, add_special_tokens=requested.add_special_tokens is not False, name="the input"
        )
        is_normalised = requested.normalize is not False
        commands = [EmbedCommand(text_ids, requested.pooling or "mean", is_normalised) for text_ids in ids]
        # One at a time, so that a request with many texts does not keep others waiting.
        vectors = [await asyncio.wrap_future(served.worker.embed(command)) for command in commands]
    if requested.dimensions is not None and requested.dimensions < width:
        vectors = [_shortened(vector[: requested.dimensions], is_normalised) for vector in vectors]
    data = [
        {"object": "embedding", "index": n, "embedding": _encoded(vector, requested.encoding_format)}
        for n, vector in enumerate(vectors)
    ]
    num = sum(map(len, ids))
    usage = {"prompt_tokens": num, "total_tokens": num}
    return JSONResponse({"object": "list", "model": served.name, "data": data, "usage": usage})


def _shortened(vector: Sequence[float], is_normalised: bool) -> list[float]:
    length = math.hypot(*vector) if is_normalised else 1.0
    return [value / length for value in vector] if length else list(vector)


def _encoded(vector: Sequence[float], form: str | None) -> list[float] | str:
    """base64: little-endian fp32, as OpenAI's clients ask for."""
    if form == "base64":
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    return list(vector)


@router.post("/tokenize")
async def tokenize(request: Request, client: str = Depends(client_of)) -> JSONResponse:
    service = service_of(request)
    requested = await read_body(TokenizeRequest, request, service.limits)
    with in_client_names(requested):
        return await _tokenize(service, requested, client)


async def _tokenize(service: Service, requested: TokenizeRequest, client: str) -> JSONResponse:
    served = service.model_or_only(requested.model)
    tokenizer = served.require_tokenizer("tokenize")
    if (requested.prompt is None) == (requested.messages is None):
        raise RequestError("give either prompt or messages", "prompt")
    if requested.messages is not None:
        tools = own_tools(requested.tools or (), service.limits, Skipped())
        conversation = Conversation(
            [message.model_dump(exclude_unset=True) for message in requested.messages],
            tool_use([tool.function for tool in tools], None, None, service.limits),
            requested.chat_template_kwargs or {},
            None,
            bool(requested.continue_final_message),
            requested.add_generation_prompt is not False,
        )
        ids = (await prompt_of(served, conversation)).token_ids
    else:
        more = {} if requested.add_special_tokens is not False else {"add_special_tokens": False}
        served.check_length(requested.prompt or "", "prompt")
        ids = await run_in_threadpool(tokenizer.encode, requested.prompt, **more)
    body = {"tokens": list(ids), "count": len(ids), "max_model_len": served.worker.facts.context_len}
    if requested.return_token_strs:
        body["token_strs"] = await run_in_threadpool(_texts_of, tokenizer, ids)
    return JSONResponse(body)


def _texts_of(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """Each token's own text."""
    known: dict[int, str] = {}
    for token in ids:
        if token not in known:
            known[token] = tokenizer.decode([token], skip_special_tokens=False)
    return [known[token] for token in ids]


@router.post("/detokenize")
async def detokenize(request: Request, client: str = Depends(client_of)) -> JSONResponse:
    service = service_of(request)
    requested = await read_body(DetokenizeRequest, request, service.limits)
    with in_client_names(requested):
        return await _detokenize(service, requested, client)


async def _detokenize(service: Service, requested: DetokenizeRequest, client: str) -> JSONResponse:
    served = service.model_or_only(requested.model)
    tokenizer = served.require_tokenizer("detokenize")
    facts, skip = served.worker.facts, bool(requested.skip_special_tokens)
    if len(requested.tokens) > facts.context_len:
        message = f"tokens holds {len(requested.tokens)} of them; at most a context, {facts.context_len}, go at once"
        raise RequestError(message, "tokens")

    def work() -> str:
        if requested.tokens:
            facts.check_ids(requested.tokens, "tokens")
        return tokenizer.decode(requested.tokens, skip_special_tokens=skip)

    return JSONResponse({"prompt": await run_in_threadpool(work)})


@router.post("/score")
async def score(request: Request, client: str = Depends(client_of)) -> Response:
    service = service_of(request)
    requested = await read_body(ScoreRequest, request, service.limits)
    with in_client_names(requested):
        return await _score(request, service, requested, client)


async def _score(http: Request, service: Service, requested: ScoreRequest, client: str) -> Response:
    served = service.model_or_only(requested.model)
    context, ids = await _score_prompts(service, served, requested)
    params = SamplingParams(
        max_tokens=0, prompt_logprobs=requested.top_logprobs or 0, prompt_logprobs_start=len(context)
    )
    name = f"score-{uuid.uuid4().hex}"
    more = {"sender": service.keys.sender(client), "limits": service.limits, "snapshot_at": (len(context),)}
    requests = [
        engine_request(f"{name}-{n}", (*context, *text_ids), params, requested, **more)
        for n, text_ids in enumerate(ids)
    ]
    check_logprobs(requests, service.limits)
    with service.turn(client):
        completions = await gather(http, served.worker, service.inbox, requests)
    if completions is None:
        return Response(status_code=499)  # nobody reads it
    entries = [
        _score_entry(n, text_ids, done.prompt_logprobs[len(context) :], requested, served)
        for n, (text_ids, done) in enumerate(zip(ids, completions))
    ]
    num = len(context) * len(ids) + sum(map(len, ids))
    usage = {"prompt_tokens": num, "total_tokens": num}
    return JSONResponse({"object": "list", "model": served.name, "data": entries, "usage": usage})


def _score_entry(
    index: int, ids: Sequence[int], scored: Sequence[TokenLogprob | None], requested: ScoreRequest, served: ServedModel
) -> dict[str, Any]:
    """One text; its first token has no numbers where no context stands before it."""
    entry = {
        "index": index,
        "tokens": list(ids),
        "token_logprobs": [token and token.logprob for token in scored],
        "ranks": [token and token.rank for token in scored],
        "logprob": math.fsum(token.logprob for token in scored if token is not None),
    }
    if requested.top_logprobs is not None:
        entry["top_logprobs"] = [scored_body(served.tokenizer, token) for token in scored]
    return entry


async def _score_prompts(
    service: Service, served: ServedModel, requested: ScoreRequest
) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """Token ids of the context, and of each text."""
    context: tuple[int, ...] = ()
    if requested.context:
        own = requested.context if isinstance(requested.context, str) else tuple(requested.context)
        try:
            (context,) = await encode(
                served, [own], add_special_tokens=requested.add_special_tokens is not False, name="the context"
            )
        except RequestError as error:
            raise RequestError(str(error), "context", error.code) from error
    # Special tokens open a text once: before its context, if it has one.
    opens = requested.add_special_tokens is not False and not context
    texts = _texts(requested.input, service.limits)
    return context, await encode(served, texts, add_special_tokens=opens, name="the input")
