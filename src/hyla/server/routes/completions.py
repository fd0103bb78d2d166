"""POST /v1/completions."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from hyla.engine import SamplingParams
from hyla.errors import RequestError
from hyla.server.answering.answering import answer
from hyla.server.reading.body import read_body
from hyla.server.reading.constraints import grammar_of
from hyla.server.reading.prompts import check_choices, check_stream, encode
from hyla.server.reading.translate import engine_request, in_client_names, sampling_params
from hyla.server.schemas.completions import DEFAULT_TOKENS, CompletionRequest
from hyla.server.served import ServedModel
from hyla.server.service import Service, client_of, service_of
from hyla.server.shapes.choice import Choice
from hyla.server.shapes.completions import CompletionShape

router = APIRouter()


@router.post("/v1/completions")
async def completions(request: Request, client: str = Depends(client_of)) -> Response:
    service = service_of(request)
    requested = await read_body(CompletionRequest, request, service.limits)
    with in_client_names(requested):
        return await _answer(request, service, requested, client)


async def _answer(request: Request, service: Service, requested: CompletionRequest, client: str) -> Response:
    served = service.model_or_only(requested.model)
    check_stream(requested)
    prompts = requested.prompts(service.limits)
    marks = served.format.marks() if requested.thinking_budget is not None else {}
    params = _params(requested, grammar_of(requested, service.limits), marks)
    check_choices(len(prompts), params.n, service.limits)
    ids = await encode(served, prompts, add_special_tokens=requested.add_special_tokens is not False)
    answer_id = f"cmpl-{uuid.uuid4().hex}"
    shape = CompletionShape(
        answer_id,
        served.name,
        served.tokenizer,
        [Choice() for _ in range(len(prompts) * params.n)],
        params.n,
        wants_logprobs=requested.logprobs is not None,
        wants_usage=requested.wants_usage,
        wants_ids=bool(requested.return_token_ids),
        num_prompt_top=requested.prompt_logprobs,
        echoes=_echoes(served, prompts, ids) if requested.echo else (),
        num_echo_top=requested.logprobs if requested.echo else None,
        num_kept=requested.n or 1,
    )
    shape.prompt_ids = ids
    if requested.max_tokens == 0 and params.prompt_logprobs is None:
        return JSONResponse(shape.without_answers(), headers={"X-Request-Id": answer_id})
    sender = service.keys.sender(client)
    requests = [
        engine_request(f"{answer_id}-{n}", prompt_ids, params, requested, sender=sender, limits=service.limits)
        for n, prompt_ids in enumerate(ids)
    ]
    return await answer(
        request,
        service,
        served,
        requests,
        shape,
        answer_id=answer_id,
        client=client,
        is_streamed=bool(requested.stream),
    )


def _params(requested: CompletionRequest, grammar: dict | None, marks: dict) -> SamplingParams:
    """Sampling parameters; best_of choices are computed and the best n of them kept. marks: of thinking."""
    most = DEFAULT_TOKENS if requested.max_tokens is None else requested.max_tokens
    scores = [
        count
        for count in (requested.prompt_logprobs, requested.logprobs if requested.echo else None)
        if count is not None
    ]
    if most == 0 and not scores:
        if not requested.echo or requested.stream:
            raise RequestError(
                "max_tokens = 0 computes no token: ask for prompt_logprobs, or for echo without stream", "max_tokens"
            )
        most = 1  # nothing is computed
    num, logprobs = requested.n or 1, requested.logprobs
    if requested.best_of is not None and requested.best_of != num:
        if requested.best_of < num or requested.stream:
            raise RequestError(
                f"best_of = {requested.best_of} must be at least n = {num}, and is not for streams", "best_of"
            )
        num, logprobs = requested.best_of, logprobs or 0
    more: dict[str, int | None] = {"n": num} if requested.best_of is not None else {}
    more["prompt_logprobs"] = max(scores, default=None)
    return sampling_params(requested, max_tokens=most, logprobs=logprobs, grammar=grammar, **more, **marks)


def _echoes(served: ServedModel, prompts: Sequence, ids: Sequence[tuple[int, ...]]) -> list[str]:
    """Each prompt as text."""
    tokenizer = served.tokenizer
    return [
        prompt if isinstance(prompt, str) else tokenizer.decode(prompt_ids) if tokenizer is not None else ""
        for prompt, prompt_ids in zip(prompts, ids)
    ]
