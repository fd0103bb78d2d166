"""POST /v1/completions."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from hyla.engine import ScoredToken
from hyla.errors import RequestError
from hyla.server.answering import answer
from hyla.server.body import parse, read_json
from hyla.server.constraints import grammar_of
from hyla.server.prompts import check_choices, check_stream, encode, prompt_fields, score
from hyla.server.reader import Choice
from hyla.server.schemas.completions import DEFAULT_TOKENS, CompletionRequest
from hyla.server.served import ServedModel
from hyla.server.service import client_of, service_of
from hyla.server.shapes.completions import CompletionShape
from hyla.server.translate import engine_request, sampling_params

router = APIRouter()


@router.post("/v1/completions")
async def completions(request: Request, client: str = Depends(client_of)) -> Response:
    service = service_of(request)
    asked = parse(CompletionRequest, await read_json(request, service.limits))
    served = service.model(asked.model)
    check_stream(asked)
    prompts = asked.prompts(service.limits)
    params = _params(asked, grammar_of(asked, service.limits))
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
        prefixes=await _prefixes(served, asked, prompts, ids),
        num_kept=asked.n or 1,
    )
    shape.prompt_fields = await prompt_fields(served, asked, ids)
    if asked.max_tokens == 0:
        return JSONResponse(shape.without_answers(ids), headers={"X-Request-Id": answer_id})
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


def _params(asked: CompletionRequest, grammar: dict | None):
    """Sampling parameters; best_of choices are computed and the best n of them kept."""
    most = DEFAULT_TOKENS if asked.max_tokens is None else asked.max_tokens
    if most == 0:
        if not asked.echo or asked.stream:
            raise RequestError("max_tokens = 0 is only for echo = true without stream; ask for a token", "max_tokens")
        most = 1
    num, logprobs = asked.n or 1, asked.logprobs
    if asked.best_of is not None and asked.best_of != num:
        if asked.best_of < num or asked.stream:
            raise RequestError(
                f"best_of = {asked.best_of} must be at least n = {num}, and is not for streams", "best_of"
            )
        num, logprobs = asked.best_of, logprobs or 0
    own = {"n": num} if asked.best_of is not None else {}
    return sampling_params(asked, max_tokens=most, logprobs=logprobs, grammar=grammar, **own)


async def _prefixes(
    served: ServedModel, asked: CompletionRequest, prompts: Sequence, ids: Sequence[tuple[int, ...]]
) -> dict[int, tuple[str, Sequence[ScoredToken]]]:
    """What `echo` puts before each prompt's choices."""
    if not asked.echo:
        return {}
    scored = await score(served, ids, asked.logprobs) if asked.logprobs is not None else [()] * len(ids)
    texts = []
    for prompt, own in zip(prompts, ids):
        has_text = isinstance(prompt, str) or served.tokenizer is None
        texts.append(prompt if isinstance(prompt, str) else "" if has_text else served.tokenizer.decode(own))
    return dict(enumerate(zip(texts, scored)))
