"""Who is told of a request's events, until every choice of it has ended."""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Lock

from hyla.engine.requests.messages import FinishReason, Request, TokenEvent

logger = logging.getLogger(__name__)

OnEvent = Callable[[TokenEvent], None]
Watch = Callable[[Request, OnEvent], OnEvent]
"""Given a resolved request and its callback, the callback to use instead: one that measures and then calls it."""


class Listeners:
    """The callbacks of unfinished requests. Any thread may add and ask; one thread delivers."""

    def __init__(self):
        self._by_id: dict[str, tuple[OnEvent, int]] = {}
        """Each request's callback, with the number of its choices that are not finished."""
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._by_id

    @property
    def request_ids(self) -> list[str]:
        with self._lock:
            return list(self._by_id)

    def add(self, request: Request, on_event: OnEvent) -> None:
        with self._lock:
            self._by_id[request.request_id] = (on_event, request.params.n)

    def deliver(self, event: TokenEvent) -> bool:
        """Tell of an event; those of unknown requests are dropped. False when the callback raised."""
        with self._lock:
            on_event, unfinished = self._by_id.get(event.request_id, (None, 0))
            if on_event is None:
                return True
            if event.finish_reason is not None:
                if unfinished > 1:
                    self._by_id[event.request_id] = (on_event, unfinished - 1)
                else:
                    del self._by_id[event.request_id]
        try:
            on_event(event)
        except Exception:  # a listener whose event loop is gone must not stop the others
            logger.exception("a listener of request %s failed; the request is cancelled", event.request_id)
            return False
        return True

    def end(
        self,
        request_id: str,
        reason: FinishReason,
        error: str | None = None,
        *,
        retry_after_seconds: int | None = None,
    ) -> None:
        """End every unfinished choice of a request that no engine will end."""
        _, choices = self._by_id.get(request_id, (None, 0))
        for choice in range(choices):
            self.deliver(
                TokenEvent(
                    request_id, choice, finish_reason=reason, error=error, retry_after_seconds=retry_after_seconds
                )
            )
