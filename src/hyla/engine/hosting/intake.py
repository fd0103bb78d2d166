"""Requests on their way into an engine: checked on threads of its own, so that nobody has to wait for them.

Those with a grammar are on other threads than the rest, since compiling one may take a while; only so many of them may
wait. What is cancelled before its turn is dropped.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor

from hyla.engine.hosting.listeners import OnEvent
from hyla.engine.requests.messages import Request
from hyla.engine.requests.overload import Overloaded
from hyla.errors import HylaError, RequestError

NUM_PLAIN = 4
"""Requests without a grammar that are checked at the same time."""
NUM_COMPILING = 2
"""Grammars that are compiled at the same time."""
MOST_GRAMMARS = 32
"""Requests with a grammar that may be on their way; more are refused with `Overloaded`."""


class Intake:
    """Threads on which `submit` is called. most: requests that may be on their way."""

    def __init__(self, submit: Callable[[Request, OnEvent], Request], most: int):
        self._submit, self._most = submit, most
        self._plain = ThreadPoolExecutor(NUM_PLAIN, "hyla-resolve")
        self._compiling = ThreadPoolExecutor(NUM_COMPILING, "hyla-compile")
        self._work: dict[str, Future] = {}
        """By request id, what is on its way."""
        self._num_grammars = 0
        self._lock = threading.Lock()

    def submit(self, request: Request, on_event: OnEvent) -> Future:
        """A Future of the request resolved, or of the error. Raises RequestError and Overloaded."""
        name, has_grammar = request.request_id, request.params.grammar is not None
        told: Future = Future()
        told.set_running_or_notify_cancel()  # it is done, whether or not somebody waits
        with self._lock:
            if name in self._work:
                raise RequestError(f"request id {name!r} is in use; choose another", "request_id")
            if len(self._work) >= self._most or (has_grammar and self._num_grammars >= MOST_GRAMMARS):
                what = "requests with a grammar" if has_grammar else "requests"
                raise Overloaded(f"too many {what} are being checked; try again in 1 s")
            pool = self._compiling if has_grammar else self._plain
            try:
                self._work[name] = work = pool.submit(self._submit, request, on_event)
            except RuntimeError as error:
                raise Overloaded("the server is shutting down; ask another one") from error
            self._num_grammars += has_grammar
        work.add_done_callback(lambda done: self._done(request, done, told))
        return told

    def _done(self, request: Request, work: Future, told: Future) -> None:
        with self._lock:
            del self._work[request.request_id]
            self._num_grammars -= request.params.grammar is not None
        try:
            value = work.result()
        except CancelledError:
            told.set_exception(HylaError("the request was cancelled before its turn"))
        except Exception as error:  # whoever sent it gets it
            told.set_exception(error)
        else:
            told.set_result(value)

    def cancel(self, request_id: str) -> None:
        """Drop a request that is not being checked yet."""
        with self._lock:
            work = self._work.get(request_id)
        if work is not None:
            work.cancel()

    def close(self) -> None:
        for pool in (self._plain, self._compiling):
            pool.shutdown(wait=False, cancel_futures=True)
