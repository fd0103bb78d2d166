"""The HTTP application: OpenAI's routes over an engine thread."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response

from hyla.engine import Engine, EngineThread, SamplingParams, TokenEvent
from hyla.engine import Request as EngineRequest
from hyla.engine.collect import Collector
from hyla.errors import RequestError
from hyla.ops import native
from hyla.server import errors, observed, page
from hyla.server.answers import ChatShape, CompletionShape, Shape, usage_body
from hyla.server.body import parse, read_json
from hyla.server.errors import HTTPFailure, error_body
from hyla.server.schema import ChatRequest, Common, CompletionRequest
from hyla.server.stream import Events, StreamedEvents, close_on_disconnect
from hyla.server.traces import Traces

DEFAULT_MAX_BODY_BYTES = 16 << 20


@dataclass
class Service:
    """What the routes work with."""

    thread: EngineThread
    model_name: str
    api_key: str | None
    max_body_bytes: int
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def engine(self) -> Engine:
        return self.thread.engine

    def check_key(self, request: Request) -> None:
        """Raises 401 unless the request carries the key, when there is one."""
        if self.api_key is None:
            return
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        # Header bytes arrive as latin-1 text.
        if not hmac.compare_digest(given.encode("latin-1"), self.api_key.encode()):
            message = "the API key is missing or wrong; send it as 'Authorization: Bearer KEY'"
            raise HTTPFailure(401, message, kind="invalid_request_error", code="invalid_api_key")

    def check_model(self, name: str) -> None:
        if name != self.model_name:
            message = f"model {name!r} is not served here; this server has {self.model_name!r}"
            raise HTTPFailure(404, message, kind="invalid_request_error", param="model", code="model_not_found")

    def model_body(self) -> dict:
        return {
            "id": self.model_name,
            "object": "model",
            "created": self.created,
            "owned_by": "hyla",
            "max_model_len": self.engine.context_len,
        }

    def health_body(self) -> dict:
        return {
            "status": "ok",
            "model": self.model_name,
            "requests": self.thread.num_requests,
            "cache": self.engine.cache.ledger.counts(),
            "cache_bytes": self.engine.cache.nbytes,
            "cpu_backend": native.backend(),
            "notes": list(self.engine.notes),
        }

    async def complete(self, request: Request) -> Response:
        asked = parse(CompletionRequest, await read_json(request, self.max_body_bytes))
        self.check_model(asked.model)
        answer_id = f"cmpl-{uuid.uuid4().hex}"
        shape = CompletionShape(answer_id, self.model_name, self.engine.tokenizer)
        return await self._answer(request, asked, shape, asked.prompts(), asked.params())

    async def chat(self, request: Request) -> Response:
        asked = parse(ChatRequest, await read_json(request, self.max_body_bytes))
        self.check_model(asked.model)
        tokenizer = self.engine.tokenizer
        if tokenizer is None:
            raise RequestError("this model has no tokenizer; use /v1/completions with token ids", "messages")
        params = asked.params()
        messages = [message.for_template() for message in asked.messages]
        prompt = tuple(tokenizer.encode_chat(messages, **asked.template_names()))
        shape = ChatShape(f"chatcmpl-{uuid.uuid4().hex}", self.model_name, tokenizer)
        return await self._answer(request, asked, shape, [prompt], params)

    async def _answer(
        self, request: Request, asked: Common, shape: Shape, prompts: Sequence, params: SamplingParams
    ) -> Response:
        names = [f"{shape.head['id']}-{n}" for n in range(len(prompts))]
        wanted = [EngineRequest(name, prompt, params) for name, prompt in zip(names, prompts)]
        events, requests = await Events.open(self.thread, wanted)
        if asked.stream:
            return StreamedEvents(_chunks(events, requests, shape, asked.wants_usage), events)
        return await _whole(request, events, requests, shape)


async def _whole(request: Request, events: Events, requests: Sequence[EngineRequest], shape: Shape) -> Response:
    """Wait for every choice; a client that goes away ends the work."""
    collectors = {own.request_id: Collector(own) for own in requests}
    watcher = asyncio.create_task(close_on_disconnect(request.receive, events))
    try:
        async for event in events:
            collectors[event.request_id].add(event)
    finally:
        events.close()
        watcher.cancel()
    if not all(collector.is_finished for collector in collectors.values()):
        return Response(status_code=499)  # nobody reads it
    completions = [completion for collector in collectors.values() for completion in collector.completions()]
    for completion in completions:
        _refuse_failure(completion.finish_reason, completion.error)
    return JSONResponse(shape.answer(completions, requests[0].params.n))


def _refuse_failure(finish_reason: str | None, error: str | None) -> None:
    """A choice that the engine could not finish is a failure of the whole answer."""
    if finish_reason == "error":
        raise HTTPFailure(500, error or "the engine failed", kind="server_error")
    if finish_reason == "cancelled":
        raise HTTPFailure(503, "the request was cancelled by the server; send it again", kind="server_error")


async def _chunks(
    events: Events, requests: Sequence[EngineRequest], shape: Shape, wants_usage: bool
) -> AsyncIterator[bytes]:
    per_prompt = requests[0].params.n
    first_index = {own.request_id: n * per_prompt for n, own in enumerate(requests)}
    usages = {}
    blank = {"usage": None} if wants_usage else {}
    for chunk in shape.first_chunks(len(requests) * per_prompt):
        yield _sse({**chunk, **blank})
    async for event in events:
        index = first_index[event.request_id] + event.choice
        if event.finish_reason is not None:
            usages[index] = event.usage
        failure = _failure_body(event)
        if failure is not None:
            yield _sse(failure)
            break
        chunk = shape.event_chunk(index, event)
        if chunk is not None:
            yield _sse({**chunk, **blank})
    else:
        if wants_usage and len(usages) == len(requests) * per_prompt:
            ordered = [usages[index] for index in sorted(usages)]
            yield _sse(shape.chunk([], usage=usage_body(ordered, per_prompt)))
    yield b"data: [DONE]\n\n"


def _failure_body(event: TokenEvent) -> dict | None:
    try:
        _refuse_failure(event.finish_reason, event.error)
    except HTTPFailure as error:
        return error_body(str(error), kind=error.kind)
    return None


def _sse(body: dict) -> bytes:
    # ASCII: some clients split server-sent events at every Unicode line end.
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


def create_app(
    engine: Engine,
    *,
    model_name: str,
    api_key: str | None = None,
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
    max_requests: int = 512,
    traces: Traces | None = None,
) -> FastAPI:
    """The application. It owns the engine from its start-up to its shutdown.

    api_key: when set, every /v1 route needs it. max_requests: most unfinished requests; more get 503.
    traces: where spans of requests go; None: nowhere.
    """
    service = Service(EngineThread(engine, max_requests=max_requests), model_name, api_key, max_body_bytes)

    @asynccontextmanager
    async def lifespan(app: FastAPI):
        service.thread.start()
        yield
        service.thread.stop()

    app = FastAPI(title="Hyla", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    errors.install(app)
    _add_routes(app, service)
    observed.install(app, {model_name: service.thread}, check_key=service.check_key, traces=traces)
    page.install(app, [model_name])
    return app


def _add_routes(app: FastAPI, service: Service) -> None:
    keyed = [Depends(service.check_key)]

    @app.get("/health")
    async def health() -> JSONResponse:
        return JSONResponse(service.health_body())

    @app.get("/v1/models", dependencies=keyed)
    async def models() -> JSONResponse:
        return JSONResponse({"object": "list", "data": [service.model_body()]})

    @app.get("/v1/models/{name:path}", dependencies=keyed)
    async def model(name: str) -> JSONResponse:
        service.check_model(name)
        return JSONResponse(service.model_body())

    @app.post("/v1/completions", dependencies=keyed)
    async def completions(request: Request) -> Response:
        return await service.complete(request)

    @app.post("/v1/chat/completions", dependencies=keyed)
    async def chat_completions(request: Request) -> Response:
        return await service.chat(request)
