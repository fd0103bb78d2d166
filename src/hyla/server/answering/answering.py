"""From checked requests to a response: submit, wait or stream, and give up when the client does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from hyla.engine import Completion, TokenEvent
from hyla.engine import Request as EngineRequest
from hyla.engine.hosting.handle import EngineHandle
from hyla.engine.requests.collect import Collector
from hyla.server.answering.stream import Events, Inbox, StreamedEvents, close_on_disconnect
from hyla.server.reading.errors import HTTPFailure
from hyla.server.reading.prompts import check_logprobs
from hyla.server.served import ServedModel
from hyla.server.service import Service
from hyla.server.shapes.protocol import Shape

logger = logging.getLogger(__name__)


async def answer(
    http: Request,
    service: Service,
    served: ServedModel,
    requests: Sequence[EngineRequest],
    shape: Shape,
    *,
    answer_id: str,
    client: str,
    is_streamed: bool,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The response that `shape` makes of the requests' events, with these headers. Raises what refuses the requests."""
    check_logprobs(requests, service.limits, is_streamed=is_streamed)
    headers = {"X-Request-Id": answer_id, **(headers or {})}
    with ExitStack() as stack:
        stack.enter_context(service.turn(client))
        events, requests = await Events.open(served.worker, service.inbox, requests, http.receive)
        stack.enter_context(service.track(answer_id, events, client))
        first_index = {request.request_id: n * request.params.n for n, request in enumerate(requests)}
        if is_streamed:
            chunks = _chunks(events, first_index, shape)
            return StreamedEvents(chunks, events, held=stack.pop_all(), headers=headers)
        return await _whole(http, events, first_index, shape, headers)


async def _whole(http: Request, events: Events, first_index: dict[str, int], shape: Shape, headers: dict) -> Response:
    """The response once every choice has ended."""
    await _take_all(http, events, lambda event: shape.add(first_index[event.request_id] + event.choice, event))
    if any(choice.finish_reason is None for choice in shape.choices):
        return Response(status_code=499)  # nobody reads it
    return JSONResponse(shape.answer(), headers=headers)


async def gather(
    http: Request, worker: EngineHandle, inbox: Inbox, requests: Sequence[EngineRequest]
) -> list[Completion] | None:
    """Every choice of some requests, in order; None when the client has gone. Raises what refuses them."""
    events, requests = await Events.open(worker, inbox, requests, http.receive)
    collectors = {request.request_id: Collector(request) for request in requests}
    await _take_all(http, events, lambda event: collectors[event.request_id].add(event))
    if not all(collector.is_finished for collector in collectors.values()):
        return None
    return [completion for collector in collectors.values() for completion in collector.completions()]


async def _take_all(http: Request, events: Events, take: Callable[[TokenEvent], object]) -> None:
    """Hand over every event. Raises what ended a choice too early; a client that goes away ends the work."""
    watcher = asyncio.create_task(close_on_disconnect(http.receive, events))
    failure = None
    try:
        async for event in events:
            failure = failure or _failure(event)
            take(event)
    finally:
        events.close()
        watcher.cancel()
    if failure is not None:
        raise failure


async def _chunks(events: Events, first_index: dict[str, int], shape: Shape) -> AsyncIterator[bytes]:
    for chunk in shape.opening():
        yield chunk
    async for event in events:
        failure = _failure(event)
        if failure is not None:
            for chunk in shape.failed(failure):
                yield chunk
            return
        for chunk in shape.updates(first_index[event.request_id] + event.choice, event):
            yield chunk
    if all(choice.finish_reason is not None for choice in shape.choices):
        for chunk in shape.closing():
            yield chunk


def _failure(event: TokenEvent) -> HTTPFailure | None:
    """A choice that the engine could not finish is a failure of the whole answer."""
    if event.retry_after_seconds is not None:
        retry = {"Retry-After": str(event.retry_after_seconds)}
        return HTTPFailure(503, event.error or "", kind="server_error", code="engine_restarted", headers=retry)
    if event.finish_reason == "dead_end":
        logger.info("choice %d of %s is cut off: %s", event.choice, event.request_id, event.error)
        if event.usage is None or not event.usage.completion_tokens:
            return HTTPFailure(400, f"nothing can be answered: {event.error}", code="nothing_allowed")
    if event.finish_reason == "error":
        return HTTPFailure(500, event.error or "the engine failed", kind="server_error", code="engine_failed")
    if event.finish_reason == "cancelled":
        message = "the request was cancelled; send it again if that was not on purpose"
        return HTTPFailure(503, message, kind="server_error", code="cancelled", headers={"Retry-After": "1"})
    return None
