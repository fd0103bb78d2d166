"""The engine on a thread of its own: requests come from any thread, events go to callbacks."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import TypeVar

from hyla.engine.administration import Administration, PauseMode
from hyla.engine.clock import monotonic
from hyla.engine.embedding import embed
from hyla.engine.engine import Engine
from hyla.engine.hosting.handed import HandedWeights
from hyla.engine.hosting.intake import Intake
from hyla.engine.hosting.listeners import Listeners, OnEvent, Watch
from hyla.engine.requests.embed import EmbedCommand
from hyla.engine.requests.messages import FinishReason, Request, TokenEvent
from hyla.engine.requests.overload import Overloaded
from hyla.engine.requests.resolving import Resolved
from hyla.engine.scheduling.limits import NOTHING, Load
from hyla.errors import HylaError, RequestError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_LATER = object()
"""The result of a command whose Future is done later."""


class EngineThread:
    """Owns an engine: nobody else may step it, add to it or cancel in it while the thread runs.

    max_requests: most unfinished requests, waiting ones included; more are refused with `Overloaded`, as is what does
    not fit the engine's own limits (`max_queued_requests`, `max_queued_tokens`).

    Pausing, sleeping and new weights (`Administration` has the rules) are requested from any thread and done between
    two steps; each returns a Future of the `status` afterwards, or of the error.
    """

    def __init__(self, engine: Engine, *, max_requests: int = 512):
        self.engine, self.max_requests = engine, max_requests
        self.facts = engine.facts()
        self.watch: Watch | None = None
        """Sees every request that is taken; set it before the first one."""
        self.after_step: Callable[[], None] | None = None
        """Called on the engine's thread when a step's events are delivered; set it before the start."""
        self._administration = Administration(engine)
        self._changed = threading.Condition()
        self._added: list[tuple[Resolved, float]] = []
        """Requests that the engine does not have yet, each with its time of arrival."""
        self._ahead = NOTHING
        """The load of what is added and not yet handed to the engine."""
        self._cancelled: list[str] = []
        self._commands: list[tuple[Callable[[], object], Future]] = []
        self._drains: list[Future] = []
        """Futures of pauses that wait for running requests."""
        self._listeners = Listeners()
        self._intake = Intake(self.submit, max_requests)
        self._is_stopping = False
        self._thread: threading.Thread | None = None
        self._step_began: float | None = None
        """When, on the process' clock; None between two steps."""

    @property
    def num_requests(self) -> int:
        """Unfinished requests."""
        return len(self._listeners)

    def status(self) -> dict:
        """Numbers as plain data, at once, from any thread."""
        return {"unfinished_requests": self.num_requests, **self._administration.status()}

    @property
    def is_alive(self) -> bool:
        """Whether requests are worked on."""
        return self._thread is not None and self._thread.is_alive() and not self._is_stopping

    def step_seconds(self) -> float:
        """How long the present step has been running; 0 between two steps. From any thread."""
        began = self._step_began
        return monotonic() - began if began is not None else 0.0

    def start(self) -> None:
        self._thread = threading.Thread(target=self._work, name="hyla-engine", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its current step; unfinished requests get a cancelled event; closes the engine."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        self._intake.close()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    # Requests

    def submit(self, request: Request, on_event: OnEvent) -> Request:
        """Queue a request; `on_event` is called on the engine's thread. Returns the request resolved.

        Raises RequestError, CapacityError and Overloaded, on the caller's thread, before anything is queued.
        """
        arrived = self.engine.clock()
        self._refuse_overload(request)
        resolved = self.engine.resolve(request)
        request = resolved.request
        load = Load.of(request)
        with self._changed:
            self._refuse_overload(request)
            self.engine.check_room(load, self._ahead)
            if self.watch is not None:
                on_event = self.watch(request, on_event)
            self._ahead += load
            self._listeners.add(request, on_event)
            self._added.append((resolved, arrived))
            self._changed.notify()
        return request

    def submitted(self, request: Request, on_event: OnEvent) -> Future:
        """`submit` on a thread of this object: a Future of what it returns or raises."""
        return self._intake.submit(request, on_event)

    def _refuse_overload(self, request: Request) -> None:
        if self._is_stopping:
            raise Overloaded("the server is shutting down; ask another one")
        if request.request_id in self._listeners:
            raise RequestError(f"request id {request.request_id!r} is in use; choose another", "request_id")
        if self.num_requests >= self.max_requests:
            seconds = self.engine.limits.retry_after_seconds()
            raise Overloaded(
                f"{self.num_requests} requests are unfinished, which is the limit; try again in {seconds} s", seconds
            )

    def cancel(self, request_id: str) -> None:
        """Stop a request before the next step; unknown and finished ones are ignored."""
        self._intake.cancel(request_id)
        with self._changed:
            self._cancelled.append(request_id)
            self._changed.notify()

    # Administration

    def pause(self, mode: PauseMode = "finish") -> Future:
        """Stop computing: see `Administration.pause`. With "finish" the Future is done when the drain is."""
        future: Future = Future()
        return self._enqueue(lambda: self._pause(mode, future), future)

    def _pause(self, mode: PauseMode, future: Future) -> object:
        self._administration.pause(mode)
        self._supersede_drains()
        self._drains.append(future)
        return _LATER

    def resume(self) -> Future:
        return self._change(self._administration.resume)

    def sleep(self, *, release_weights: bool = False) -> Future:
        return self._change(lambda: self._administration.sleep(release_weights=release_weights))

    def wake(self) -> Future:
        return self._change(self._administration.wake)

    def update_weights(self, source) -> Future:
        return self._change(lambda: self._administration.update_weights(source))

    def renew_weights(self, handed: HandedWeights) -> Future:
        """A trainer's numbers (`Administration.renew_weights`); the status has their `digest` besides."""

        def command() -> dict:
            digest = self._administration.renew_weights(handed)
            return {**self.status(), "digest": digest}

        return self.call(command)

    def _change(self, change: Callable[[], object]) -> Future:
        def command() -> dict:
            change()
            if self._administration.state == "running":
                self._supersede_drains()
            return self.status()

        return self.call(command)

    def embed(self, command: EmbedCommand) -> Future:
        """Compute a text's vector between two steps: see `embedding`.

        Raises RequestError for ids that the model does not have and for too many of them.
        """
        self.facts.check_text(command.token_ids)
        return self.call(lambda: embed(self.engine.model, command, self.engine.options.numerics))

    def call(self, function: Callable[[], Result]) -> Future:
        """Run a function on the engine's thread between two steps, and give its result or exception."""
        return self._enqueue(function, Future())

    def _enqueue(self, function: Callable[[], object], future: Future) -> Future:
        with self._changed:
            if self._is_stopping:
                raise Overloaded("the server is shutting down; ask another one")
            self._commands.append((function, future))
            self._changed.notify()
        return future

    def _supersede_drains(self) -> None:
        drains, self._drains = self._drains, []
        for future in drains:
            future.set_exception(HylaError("a later pause or resume took the place of this pause"))

    def _settle(self) -> None:
        self._administration.settle()
        if self._administration.state != "draining":
            drains, self._drains = self._drains, []
            for future in drains:
                future.set_result(self.status())

    # The thread

    def _work(self) -> None:
        while self._take_commands():
            self._step_began = monotonic()
            try:
                events = self._step()
            except Exception:  # the engine ends its own failed batches; this is a fault of the engine itself
                logger.exception("an engine step failed outside of its batch")
                self._end_all("error", "the engine failed; its log has the reason")
                events = []
            self._step_began = None
            for event in events:
                self._deliver(event)
            self._told()
            self._settle()
        self._end_all("cancelled")
        self._told()
        self._refuse_commands()
        self.engine.close()

    def _told(self) -> None:
        if self.after_step is not None:
            self.after_step()

    def _step(self) -> list[TokenEvent]:
        """A step, or, while the engine is paused, what changes without one."""
        if self._administration.may_step:
            return self.engine.step()
        self.engine.expire()
        return self.engine.take_events()

    def _take_commands(self) -> bool:
        """Wait for work, then do what was requested between two steps. False: stop."""
        with self._changed:
            while not self._has_work():
                self._changed.wait(self._seconds_to_deadline())
            added, self._added = self._added, []
            self._ahead = NOTHING
            cancelled, self._cancelled = self._cancelled, []
            commands, self._commands = self._commands, []
            if not self._is_stopping:
                self._hand_over(added)
        if self._is_stopping:
            with self._changed:
                self._commands = commands + self._commands
            return False
        for name in cancelled:
            self.engine.cancel(name)
        for function, future in commands:
            _carry_out(function, future)
        return True

    def _has_work(self) -> bool:
        if self._is_stopping or self._added or self._cancelled or self._commands:
            return True
        if self._administration.may_step:
            return self.engine.has_work
        return self.engine.has_events or self._seconds_to_deadline() == 0

    def _seconds_to_deadline(self) -> float | None:
        """How long until somebody's time is up, while the engine computes nothing."""
        deadline = self.engine.next_deadline()
        return None if deadline is None else max(deadline - self.engine.clock(), 0.0)

    def _hand_over(self, added: list[tuple[Resolved, float]]) -> None:
        """Give requests to the engine. (Under the lock: until it is done they count as ahead of what is submitted.)"""
        for resolved, arrived in added:
            try:
                self.engine.add(resolved, arrived=arrived, is_admitted=True)
            except HylaError as error:
                self._listeners.end(resolved.request.request_id, "error", str(error))

    def _deliver(self, event: TokenEvent) -> None:
        if not self._listeners.deliver(event):
            self._cancelled.append(event.request_id)

    def _end_all(self, reason: FinishReason, error: str | None = None) -> None:
        """Give up on every unfinished request."""
        for name in self._listeners.request_ids:
            self.engine.cancel(name)
        for event in self.engine.take_events():
            self._deliver(replace(event, finish_reason=reason, error=error) if event.finish_reason else event)
        for name in self._listeners.request_ids:
            self._listeners.end(name, reason, error)

    def _refuse_commands(self) -> None:
        """Every command that is left ends with an error, so that nobody waits for it."""
        with self._changed:
            commands, self._commands = self._commands, []
        for future in [future for _, future in commands] + self._drains:
            future.set_exception(HylaError("the engine has stopped"))


def _carry_out(function: Callable[[], object], future: Future) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = function()
    except Exception as error:  # whoever sent the command gets it
        future.set_exception(error)
        return
    if result is not _LATER:
        future.set_result(result)
