"""The engine on a thread of its own: requests come from any thread, events go to callbacks."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace

from hyla.engine.engine import Engine
from hyla.engine.messages import FinishReason, Request, TokenEvent
from hyla.errors import CapacityError, HylaError, RequestError

logger = logging.getLogger(__name__)

OnEvent = Callable[[TokenEvent], None]


class Overloaded(CapacityError):
    """Too many requests wait already; the same request may succeed later."""


class EngineThread:
    """Owns an engine: nobody else may step it, add to it or cancel in it while the thread runs.

    max_requests: most unfinished requests, waiting ones included; more are refused with `Overloaded`.
    """

    def __init__(self, engine: Engine, *, max_requests: int = 512):
        self.engine, self.max_requests = engine, max_requests
        self._changed = threading.Condition()
        self._added: list[Request] = []
        self._cancelled: list[str] = []
        self._orders: deque[tuple[Callable[[], object], Future]] = deque()
        self._listeners: dict[str, tuple[OnEvent, int]] = {}
        """Per unfinished request: its callback and how many choices are not finished."""
        self._is_stopping = False
        self._thread: threading.Thread | None = None

    @property
    def num_requests(self) -> int:
        """Unfinished requests."""
        return len(self._listeners)

    @property
    def is_alive(self) -> bool:
        """Whether requests are worked on."""
        return self._thread is not None and self._thread.is_alive() and not self._is_stopping

    def start(self) -> None:
        self._thread = threading.Thread(target=self._work, name="hyla-engine", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its current step; unfinished requests get a cancelled event."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def submit(self, request: Request, on_event: OnEvent) -> Request:
        """Queue a request; `on_event` is called on the engine's thread. Returns the request resolved.

        Raises RequestError, CapacityError and Overloaded, on the caller's thread, before anything is queued.
        """
        self._refuse_overload(request)
        request = self.engine.resolve(request)
        with self._changed:
            self._refuse_overload(request)
            self._listeners[request.request_id] = (on_event, request.params.n)
            self._added.append(request)
            self._changed.notify()
        return request

    def _refuse_overload(self, request: Request) -> None:
        if self._is_stopping:
            raise Overloaded("the server is shutting down; ask another one")
        if request.request_id in self._listeners:
            raise RequestError(f"request id {request.request_id!r} is in use; choose another", "request_id")
        if self.num_requests >= self.max_requests:
            raise Overloaded(f"{self.num_requests} requests are unfinished, which is the limit; try again later")

    def cancel(self, request_id: str) -> None:
        """Stop a request before the next step; unknown and finished ones are ignored."""
        with self._changed:
            self._cancelled.append(request_id)
            self._changed.notify()

    def call(self, function: Callable[[], object]) -> Future:
        """Run a function on the engine's thread between two steps, and give its result or exception."""
        future: Future = Future()
        with self._changed:
            if self._is_stopping:
                raise Overloaded("the server is shutting down; ask another one")
            self._orders.append((function, future))
            self._changed.notify()
        return future

    def _run_order(self) -> None:
        """One call between two steps, if there is one."""
        with self._changed:
            if not self._orders:
                return
            function, future = self._orders.popleft()
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(function())
        except Exception as error:
            future.set_exception(error)

    def _work(self) -> None:
        while self._take_orders():
            self._run_order()
            try:
                events = self.engine.step()
            except Exception:  # the engine ends its own failed batches; this is a fault of the engine itself
                logger.exception("an engine step failed outside of its batch")
                self._end_all("error", "the engine failed; its log has the reason")
                continue
            for event in events:
                self._deliver(event)
        self._end_all("cancelled")

    def _take_orders(self) -> bool:
        """Wait for work, then hand new requests and cancellations to the engine. False: stop."""
        with self._changed:
            while not (self._is_stopping or self._added or self._cancelled or self._orders or self.engine.has_work):
                self._changed.wait()
            added, self._added = self._added, []
            cancelled, self._cancelled = self._cancelled, []
        if self._is_stopping:
            return False
        for request in added:
            try:
                self.engine.add(request)
            except HylaError as error:
                self._deliver_end(request.request_id, "error", str(error))
        for name in cancelled:
            self.engine.cancel(name)
        return True

    def _deliver(self, event: TokenEvent) -> None:
        on_event, unfinished = self._listeners.get(event.request_id, (None, 0))
        if on_event is None:
            return
        if event.finish_reason is not None:
            unfinished -= 1
            with self._changed:
                if unfinished:
                    self._listeners[event.request_id] = (on_event, unfinished)
                else:
                    del self._listeners[event.request_id]
        try:
            on_event(event)
        except Exception:  # a listener whose event loop is gone must not stop the others
            logger.exception("a listener of request %s failed; the request is cancelled", event.request_id)
            self._cancelled.append(event.request_id)

    def _deliver_end(self, request_id: str, reason: FinishReason, error: str | None) -> None:
        """End every unfinished choice of a request that the engine does not know."""
        _, choices = self._listeners.get(request_id, (None, 0))
        for choice in range(choices):
            self._deliver(TokenEvent(request_id, choice, finish_reason=reason, error=error))

    def _end_all(self, reason: FinishReason, error: str | None = None) -> None:
        """Give up on every unfinished request."""
        for name in list(self._listeners):
            self.engine.cancel(name)
        for event in self.engine.take_events():
            self._deliver(replace(event, finish_reason=reason, error=error) if event.finish_reason else event)
        for name in list(self._listeners):
            self._deliver_end(name, reason, error)
        if self._is_stopping:
            while self._orders:
                _, future = self._orders.popleft()
                if future.set_running_or_notify_cancel():
                    future.set_exception(Overloaded("the server is shutting down; ask another one"))
