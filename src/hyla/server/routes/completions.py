"""POST /v1/completions."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from hyla.engine import SamplingParams
from hyla.errors import RequestError
from hyla.server.answering.answering import answer
from hyla.server.answering.reader import Choice
from hyla.server.reading.body import parse, read_json
from hyla.server.reading.constraints import grammar_of
from hyla.server.reading.prompts import check_choices, check_stream, encode
from hyla.server.reading.translate import engine_request, in_own_names, sampling_params
from hyla.server.schemas.completions import DEFAULT_TOKENS, CompletionRequest
from hyla.server.served import ServedModel
from hyla.server.service import Service, client_of, service_of
from hyla.server.shapes.completions import CompletionShape

router = APIRouter()


@router.post("/v1/completions")
async def completions(request: Request, client: str = Depends(client_of)) -> Response:
    service = service_of(request)
    asked = parse(CompletionRequest, await read_json(request, service.limits))
    with in_own_names(asked):
        return await _answer(request, service, asked, client)


async def _answer(request: Request, service: Service, asked: CompletionRequest, client: str) -> Response:
    served = service.model(asked.model)
    check_stream(asked)
    prompts = asked.prompts(service.limits)
    marks = served.format.marks() if asked.thinking_budget is not None else {}
    params = _params(asked, grammar_of(asked, service.limits), marks)
    check_choices(len(prompts), params.n, service.limits)
    ids = await encode(served, prompts, add_special_tokens=asked.add_special_tokens is not False)
    answer_id = f"cmpl-{uuid.uuid4().hex}"
    shape = CompletionShape(
        answer_id,
        served.name,
        served.tokenizer,
        [Choice() for _ in range(len(prompts) * params.n)],
        params.n,
        wants_logprobs=asked.logprobs is not None,
        wants_usage=asked.wants_usage,
        wants_ids=bool(asked.return_token_ids),
        num_prompt_top=asked.prompt_logprobs,
        echoes=_echoes(served, prompts, ids) if asked.echo else (),
        num_echo_top=asked.logprobs if asked.echo else None,
        num_kept=asked.n or 1,
    )
    shape.prompt_ids = ids
    if asked.max_tokens == 0 and params.prompt_logprobs is None:
        return JSONResponse(shape.without_answers(), headers={"X-Request-Id": answer_id})
    requests = [engine_request(f"{answer_id}-{n}", own, params, asked, key=client or None) for n, own in enumerate(ids)]
    return await answer(
        request,
        service,
        served,
        requests,
        shape,
        answer_id=answer_id,
        client=client,
        is_streamed=bool(asked.stream),
    )


def _params(asked: CompletionRequest, grammar: dict | None, marks: dict) -> SamplingParams:
    """Sampling parameters; best_of choices are computed and the best n of them kept. marks: of thinking."""
    most = DEFAULT_TOKENS if asked.max_tokens is None else asked.max_tokens
    scores = [own for own in (asked.prompt_logprobs, asked.logprobs if asked.echo else None) if own is not None]
    if most == 0 and not scores:
        if not asked.echo or asked.stream:
            raise RequestError(
                "max_tokens = 0 computes no token: ask for prompt_logprobs, or for echo without stream", "max_tokens"
            )
        most = 1  # nothing is computed
    num, logprobs = asked.n or 1, asked.logprobs
    if asked.best_of is not None and asked.best_of != num:
        if asked.best_of < num or asked.stream:
            raise RequestError(
                f"best_of = {asked.best_of} must be at least n = {num}, and is not for streams", "best_of"
            )
        num, logprobs = asked.best_of, logprobs or 0
    own = {"n": num} if asked.best_of is not None else {}
    own["prompt_logprobs"] = max(scores, default=None)
    return sampling_params(asked, max_tokens=most, logprobs=logprobs, grammar=grammar, **own, **marks)


def _echoes(served: ServedModel, prompts: Sequence, ids: Sequence[tuple[int, ...]]) -> list[str]:
    """Each prompt as text."""
    has_text = served.tokenizer is not None
    return [
        prompt if isinstance(prompt, str) else served.tokenizer.decode(own) if has_text else ""
        for prompt, own in zip(prompts, ids)
    ]
