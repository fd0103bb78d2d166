"""Events of an engine on the server's event loop, and what ends them when the client goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from threading import Lock

from starlette.responses import Response

from hyla.engine import Request, TokenEvent
from hyla.engine.hosting.handle import EngineHandle


class Inbox:
    """Brings events from other threads to this event loop, those of a step together: waking a loop costs more than most
    events do. To be made on the loop."""

    def __init__(self):
        self._loop = asyncio.get_running_loop()
        self._new: list[tuple[asyncio.Queue, TokenEvent]] = []
        self._lock = Lock()

    def put(self, queue: asyncio.Queue, event: TokenEvent) -> None:
        """Leave an event for a queue; any thread may call this."""
        with self._lock:
            self._new.append((queue, event))
            is_first = len(self._new) == 1
        if is_first:
            self._loop.call_soon_threadsafe(self._distribute)

    def _distribute(self) -> None:
        with self._lock:
            new, self._new = self._new, []
        for queue, event in new:
            queue.put_nowait(event)


class Events:
    """Events of a few requests, in the order they come. `close` may be called at any time, more than once."""

    def __init__(self, worker: EngineHandle, inbox: Inbox):
        self._worker, self._inbox = worker, inbox
        self._queue: asyncio.Queue[TokenEvent | None] = asyncio.Queue()
        self._unfinished: dict[str, int] = {}
        self.is_closed = False

    @classmethod
    async def open(
        cls, worker: EngineHandle, inbox: Inbox, requests: Sequence[Request]
    ) -> tuple[Events, list[Request]]:
        """Submit all requests (or none) and return them resolved. Raises RequestError, CapacityError, Overloaded."""
        events = cls(worker, inbox)
        resolved = []
        try:
            for request in requests:
                events._unfinished[request.request_id] = request.params.n
                # Checking it takes a while; neither the event loop nor one of its threads waits for that.
                resolved.append(await asyncio.wrap_future(worker.submitted(request, events._receive)))
        except BaseException:
            events.close()
            raise
        return events, resolved

    def _receive(self, event: TokenEvent) -> None:
        self._inbox.put(self._queue, event)

    async def __aiter__(self) -> AsyncIterator[TokenEvent]:
        """Until every choice has finished, or `close`."""
        while self._unfinished and not self.is_closed:
            event = await self._queue.get()
            if event is None:
                return
            if event.finish_reason is not None:
                self._unfinished[event.request_id] -= 1
                if not self._unfinished[event.request_id]:
                    del self._unfinished[event.request_id]
            yield event

    def abort(self) -> None:
        """Cancel what is unfinished; its last events still come."""
        for name in self._unfinished:
            self._worker.cancel(name)

    def close(self) -> None:
        """Cancel what is unfinished and end the iteration."""
        if self.is_closed:
            return
        self.is_closed = True
        self.abort()
        self._queue.put_nowait(None)


async def close_on_disconnect(receive, events: Events) -> None:
    """Wait for the client to go away. The request's body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass
    events.close()


class StreamedEvents(Response):
    """A server-sent-events response that frees the engine's work when the client goes away, at whatever point.

    held: closed when the response ends.
    """

    media_type = "text/event-stream"

    def __init__(self, chunks: AsyncIterator[bytes], events: Events, *, held: ExitStack, headers: dict[str, str]):
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **headers})
        del self.headers["content-length"]
        self.chunks, self.events, self.held = chunks, events, held

    async def __call__(self, scope, receive, send) -> None:
        watcher = asyncio.create_task(close_on_disconnect(receive, self.events))
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for chunk in self.chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self.events.close()
            watcher.cancel()
            self.held.close()
