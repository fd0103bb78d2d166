"""The engine of rollouts in a process of its own, and the versions of the weights that answers were drawn with."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue
from typing import Protocol

from hyla.engine import Completion, EngineProcess, Overloaded, Request, TokenEvent
from hyla.engine.blocking import BlockingUse
from hyla.engine.requests.resolving import Resolved, Resolver
from hyla.engine.requests.text import TextCodec
from hyla.engine.sampling.grammar import GrammarCompiler
from hyla.errors import HylaError

logger = logging.getLogger(__name__)

MOST_DEATHS = 3
"""So often in a row the process may die without an answer between; then the run ends."""
START_SECONDS = 600.0
"""How long it may take to be there again."""
LOOK_SECONDS = 0.05


class RolloutProcess(BlockingUse):
    """Used as an `Engine` is by one caller that waits (`generate`, `finished`), and computes elsewhere. Events come
    when their request has ended.

    When the process dies, it is started again, `on_restart` gives it its weights, and what was open is asked once more:
    with the same seeds, so that the answers have the same bits. `process` is started already; `close` ends it.
    """

    def __init__(self, process: EngineProcess, tokenizer: TextCodec | None):
        super().__init__()
        self.process = process
        self.weights_version = 1
        """That the process has, once it was handed over."""
        self.on_restart: Callable[[], None] = lambda: None
        """Hands the whole model over to a process that has just begun, under the version of now."""
        self._resolver = Resolver(process.facts, tokenizer, GrammarCompiler(tokenizer))
        self._open: dict[str, Request] = {}
        """Requests that have not ended."""
        self._held: dict[str, list[TokenEvent]] = {}
        """Their events."""
        self._told: SimpleQueue[TokenEvent] = SimpleQueue()
        self._events: list[TokenEvent] = []
        self._num_restarts = process.num_restarts
        self._num_deaths = 0
        """In a row, without an answer between."""
        self._is_bare = False
        """Whether the process has begun anew and has not got its weights yet."""
        self._left: list[Request] = []
        """What it has yet to be asked for once more."""

    def resolve(self, request: Request) -> Resolved:
        return self._resolver.resolve(request)

    def add(self, request: Request | Resolved) -> Request:
        """Ask for a request. Raises Overloaded when as many as the process takes are open."""
        asked = (request if isinstance(request, Resolved) else self.resolve(request)).request
        while True:
            if not self._is_well:
                self._recover()
            try:
                taken = self.process.submit(asked, self._told.put)
            except Overloaded:
                if self._is_well:
                    raise
            else:
                self._open[taken.request_id] = taken
                return taken

    def cancel(self, request_id: str) -> bool:
        self._held.pop(request_id, None)
        was_open = self._open.pop(request_id, None) is not None
        if was_open:
            self.process.cancel(request_id)
        return was_open

    def step(self) -> list[TokenEvent]:
        """The events of the requests that have ended; waits a little where none has, as a step does."""
        events, self._events = self._events, []
        if not events and self._open:
            try:
                events += self._taken(self._told.get(timeout=LOOK_SECONDS))
            except Empty:
                if not self._is_well:  # it may have died and begun anew before it was asked
                    self._recover()
        while not self._told.empty():
            events += self._taken(self._told.get())
        return events

    def _taken(self, event: TokenEvent) -> list[TokenEvent]:
        """All events of a request with whose last one it ends; else nothing."""
        request = self._open.get(event.request_id)
        if request is None:  # it was cancelled
            return []
        if event.finish_reason == "error" and event.retry_after_seconds is not None:
            self._recover()
            return []
        held = self._held.setdefault(event.request_id, [])
        held.append(event)
        if sum(one.finish_reason is not None for one in held) < request.params.n:
            return []
        self._num_deaths = 0
        del self._open[event.request_id]
        return self._held.pop(event.request_id)

    def renewed(self, give: Callable[[], None]) -> None:
        """Call what hands weights over. A process that has begun anew since the last time gets all of them instead."""
        while True:
            before = self._num_restarts
            if not self._is_well:
                self._recover()
            if self._num_restarts != before:
                return
            try:
                return give()
            except Overloaded:
                if self._is_well:
                    raise

    @property
    def _is_well(self) -> bool:
        """Whether the process takes calls and has all that it was given."""
        is_alive = self.process.is_alive  # before it is counted: a new one is both at once
        is_same = self.process.num_restarts == self._num_restarts
        return is_alive and is_same and not self._is_bare and not self._left

    def _recover(self) -> None:
        """Wait for a process that takes requests. One that was only silent for a while has everything still; another
        one gets its weights and what is open.

        Raises HylaError when there is none, or it has died too often.
        """
        while not self._is_well:
            self._wait()
            if self.process.num_restarts != self._num_restarts:
                self._mourn()
            try:
                self._ask_again()
            except Overloaded as error:
                logger.warning("the engine's process is not there: %s", error)

    def _wait(self) -> None:
        end = time.monotonic() + START_SECONDS
        while not self.process.is_alive:
            if time.monotonic() > end:
                raise HylaError(f"the engine's process was not back within {START_SECONDS:g} s: it {self._last_end}")
            time.sleep(LOOK_SECONDS)

    @property
    def _last_end(self) -> str:
        return self.process.status()["worker"]["last_end"]

    def _mourn(self) -> None:
        """There is another process; everything that was open is lost."""
        self._num_restarts = self.process.num_restarts
        self._num_deaths += 1
        if self._num_deaths > MOST_DEATHS:
            raise HylaError(
                f"the engine's process died {self._num_deaths} times without an answer between; the last one "
                f"{self._last_end}"
            )
        logger.warning("the engine's process %s; %d answers are computed once more", self._last_end, len(self._open))
        self._is_bare, self._left = True, list(self._open.values())
        self._held.clear()
        while not self._told.empty():
            self._told.get()

    def _ask_again(self) -> None:
        if self._is_bare:
            self.on_restart()
            self.process.resume().result()
            self._is_bare = False
        while self._left:
            self.process.submit(self._left[0], self._told.put)
            del self._left[0]

    def close(self) -> None:
        """End the process."""
        self.process.stop()


class HasVersion(Protocol):
    """An engine, here or elsewhere."""

    weights_version: int


def check_versions(completions: Iterable[Completion], engine: HasVersion) -> None:
    """Raise HylaError for a whole answer that other weights have drawn than those that the engine was given last: a
    round is a function of one version."""
    for done in completions:
        if done.finish_reason in ("stop", "length") and done.weights_version != engine.weights_version:
            raise HylaError(
                f"answer {done.request_id} was drawn with version {done.weights_version} of the weights, and version "
                f"{engine.weights_version} was handed over for this round"
            )
