"""What the routes work with: the models, the bounds, who may ask, and what runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from fastapi import Request

from hyla.errors import RequestError
from hyla.server.answering.stored import ResponseStore
from hyla.server.answering.stream import Events, Inbox
from hyla.server.guard.keys import KeyRing
from hyla.server.guard.limits import Limits
from hyla.server.reading.errors import HTTPFailure
from hyla.server.served import ServedModel


@dataclass(frozen=True)
class Running:
    """An answer that is being made."""

    events: Events
    client: str


class Service:
    """The state of one server."""

    def __init__(self, models: Sequence[ServedModel], *, limits: Limits, keys: KeyRing):
        self.models = {model.name: model for model in models}
        self.limits, self.keys = limits, keys
        self.stored = ResponseStore(limits)
        self.running: dict[str, Running] = {}
        self.is_draining = False
        self._inbox: Inbox | None = None
        self._by_client: Counter[str] = Counter()

    @property
    def inbox(self) -> Inbox:
        """What brings engines' events to the event loop that the server runs on."""
        if self._inbox is None:
            self._inbox = Inbox()
        return self._inbox

    def model(self, name: str) -> ServedModel:
        """The named model. Raises HTTPFailure 404 when it is not served."""
        if name not in self.models:
            served = ", ".join(repr(known) for known in self.models)
            message = f"model {name!r} is not served here; this server has {served}"
            raise HTTPFailure(404, message, param="model", code="model_not_found")
        return self.models[name]

    def model_or_only(self, name: str | None) -> ServedModel:
        """The named model; without a name the only one. Raises 404, and RequestError when there are several."""
        if name is None and len(self.models) > 1:
            served = ", ".join(repr(known) for known in self.models)
            raise RequestError(f"model is missing and this server has {served}; name one", "model")
        return next(iter(self.models.values())) if name is None else self.model(name)

    @contextmanager
    def track(self, answer_id: str, events: Events, client: str) -> Iterator[None]:
        """Count an answer as running, so that it can be aborted by its id."""
        self.running[answer_id] = Running(events, client)
        try:
            yield
        finally:
            del self.running[answer_id]

    @contextmanager
    def turn(self, client: str) -> Iterator[None]:
        """One request of a client. Raises 429 when it has too many, 503 when the server is ending."""
        if self.is_draining:
            message = "the server is shutting down; ask another one"
            raise HTTPFailure(503, message, kind="overloaded_error", code="overloaded", headers={"Retry-After": "5"})
        most = self.limits.max_requests_per_key
        if most is not None and client and self._by_client[client] >= most:
            message = f"this key has {most} unfinished requests, which is its limit; try again later"
            raise HTTPFailure(429, message, kind="rate_limit_error", code="rate_limited", headers={"Retry-After": "1"})
        self._by_client[client] += 1
        try:
            yield
        finally:
            self._by_client[client] -= 1
            if not self._by_client[client]:
                del self._by_client[client]

    def abort(self, answer_id: str, client: str) -> bool:
        """Cancel a running answer of the client; False when it has none of that id."""
        found = self.running.get(answer_id)
        if found is None or client not in (found.client, "admin"):
            return False
        found.events.abort()
        return True


def service_of(request: Request) -> Service:
    return request.app.state.service


async def client_of(request: Request) -> str:
    """Whose request it is, as a dependency of every route that needs a key. (Asynchronous, so that nobody waits for a
    thread to be let in.)"""
    return service_of(request).keys.check(request)
