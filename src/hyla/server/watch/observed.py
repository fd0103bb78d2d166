"""Everything that watches a server: metrics, the engines' live numbers, a log line and a span for each request."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import nullcontext

from fastapi import APIRouter, Depends, FastAPI
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.types import ASGIApp, Receive, Scope, Send

from hyla.engine.hosting.handle import EngineHandle
from hyla.server.watch.aside import aside
from hyla.server.watch.logs import FIELDS
from hyla.server.watch.metrics import Metrics
from hyla.server.watch.traces import Traces

logger = logging.getLogger("hyla.request")

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
"""What is taken over from a client's X-Request-Id; anything else is left out."""

QUIET = frozenset({"/health", "/ready", "/metrics", "/engine/status"})
"""Routes that are requested all the time: logged only when they fail."""


def install(
    app: FastAPI, workers: Mapping[str, EngineHandle], *, check_key: Callable, traces: Traces | None = None
) -> Metrics:
    """Add /metrics and /engine/status, and measure every request.

    workers: by model name. check_key: a dependency that refuses who may not see the status; /metrics holds no contents
    and is open, as /health is.
    """
    metrics = Metrics(workers)
    app.include_router(router_of(metrics, check_key))
    app.add_middleware(Observed, metrics=metrics, traces=traces)
    app.state.metrics = metrics
    return metrics


def router_of(metrics: Metrics, check_key: Callable) -> APIRouter:
    router = APIRouter()

    @router.get("/metrics")
    async def show_metrics() -> Response:
        return Response(await aside(metrics.exposition), headers={"Content-Type": CONTENT_TYPE_LATEST})

    @router.get("/engine/status", dependencies=[Depends(check_key)])
    async def status() -> JSONResponse:
        return JSONResponse({"models": {name: await aside(status_body, metrics, name) for name in metrics.workers}})

    return router


def status_body(metrics: Metrics, name: str) -> dict:
    """The numbers of one model's engine, as the page shows them."""
    worker, recent = metrics.workers[name], metrics.recent[name]
    return {
        **worker.status(),
        "prompt_tokens_per_second": recent.prompt.per_second(),
        "generated_tokens_per_second": recent.generated.per_second(),
        "context_len": worker.facts.context_len,
        "max_num_sequences": worker.facts.max_num_sequences,
        "notes": list(worker.facts.notes),
    }


class Observed:
    """ASGI middleware: counts a request, logs it, traces it, and gives its response an X-Request-Id if it has none."""

    def __init__(self, app: ASGIApp, metrics: Metrics, traces: Traces | None = None):
        self.app, self.metrics, self.traces = app, metrics, traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = Exchange(scope, send)
        traced = self.traces.span(scope["method"], exchange.headers) if self.traces is not None else nullcontext()
        with traced as span:
            try:
                await self.app(scope, receive, exchange.send)
            finally:
                self._tell(exchange)
                if span is not None:
                    span.finish(exchange.attributes())

    def _tell(self, exchange: Exchange) -> None:
        self.metrics.http_requests.labels(exchange.route, exchange.method, str(exchange.status)).inc()
        is_failure = exchange.status >= 500
        if exchange.path in QUIET and not is_failure:
            return
        level = logging.WARNING if is_failure else logging.INFO
        fields = exchange.fields()
        text = "%s %s %d in %.3f s (%s)"
        values = (exchange.method, exchange.path, exchange.status, fields["seconds"], exchange.request_id)
        logger.log(level, text, *values, extra={FIELDS: fields})


class Exchange:
    """One request and what is sent for it."""

    def __init__(self, scope: Scope, send: Send):
        self._scope, self._send = scope, send
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self.method, self.path = scope["method"], scope["path"]
        if self.method not in ("GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"):
            self.method = "other"  # a label must not be the client's to choose
        given = self.headers.get("x-request-id", "")
        self.client_request_id = given if REQUEST_ID.fullmatch(given) else None
        self.request_id = self.client_request_id or f"req-{uuid.uuid4().hex}"
        self.status = 499
        """Until the response starts: nobody waited for it."""
        self.sent_bytes = 0
        self._start = time.perf_counter()
        self._first_seconds: float | None = None

    @property
    def route(self) -> str:
        """The route's pattern; for none of ours, "other"."""
        found = self._scope.get("route")
        return found.path if found is not None else "other"

    async def send(self, message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            names = {name.lower(): value for name, value in message["headers"]}
            if b"x-request-id" in names:
                self.request_id = names[b"x-request-id"].decode("latin-1")
            else:
                message["headers"] = [*message["headers"], (b"x-request-id", self.request_id.encode())]
        elif message["type"] == "http.response.body":
            self.sent_bytes += len(message.get("body", b""))
            if self._first_seconds is None:
                self._first_seconds = time.perf_counter() - self._start
        await self._send(message)

    def fields(self) -> dict:
        """What the log says of it."""
        found = {
            "request_id": self.request_id,
            "client_request_id": self.client_request_id,
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "seconds": round(time.perf_counter() - self._start, 6),
            "first_byte_seconds": self._first_seconds and round(self._first_seconds, 6),
            "sent_bytes": self.sent_bytes,
            "client": (self._scope.get("client") or ("",))[0],
        }
        return {name: value for name, value in found.items() if value is not None}

    def attributes(self) -> dict:
        """What its span says, by OpenTelemetry's names."""
        return {
            "http.request.method": self.method,
            "http.route": self.route,
            "url.path": self.path,
            "http.response.status_code": self.status,
            "http.response.body.size": self.sent_bytes,
            "hyla.request_id": self.request_id,
        }
