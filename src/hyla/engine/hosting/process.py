"""An engine in a process of its own, which is started again when it dies: the server outlives it.

It is used as an `EngineThread` is. What was under way when the process died ends with a clear error and is not repeated
here, as it may be the reason; the client may send it again.
"""

from __future__ import annotations

import logging
import math
import threading
from concurrent.futures import Future
from itertools import count
from typing import TYPE_CHECKING, Any, Literal

from hyla.engine.clock import monotonic
from hyla.engine.hosting.child import KILL_SECONDS, Child, Progress
from hyla.engine.hosting.last_status import LastStatus
from hyla.engine.hosting.listeners import Listeners, OnEvent, Watch
from hyla.engine.hosting.pending import Opening, PendingCall
from hyla.engine.hosting.watching import is_quiet, watch_over
from hyla.engine.hosting.wire import Answer, Call, Cancel, Launch, StepEvents, Stop
from hyla.engine.requests.embed import EmbedCommand
from hyla.engine.requests.messages import Request, TokenEvent
from hyla.engine.requests.overload import Overloaded
from hyla.errors import HylaError, RequestError

if TYPE_CHECKING:  # it loads PyTorch
    from hyla.engine.hosting.handed import HandedWeights

logger = logging.getLogger(__name__)

STEADY_SECONDS = 60.0
"""A process that lived this long is started again at once; after a shorter life there is a pause before it."""
LONGEST_PAUSE = 60.0
"""Seconds between two attempts to start."""


class EngineProcess:
    """Starts the process and waits until its engine is ready; raises what keeps it from that (ConfigError, ...).

    give_up: set by another thread, it ends the waiting with HylaError.

    Methods may be called from any thread; callbacks are called, and Futures done, on a thread of this object.
    After a death the engine is made again as it was at first. Where an administrative action had changed it (new
    weights, a pause), it comes up paused: going on with the old weights would be wrong without a word.
    """

    def __init__(self, launch: Launch, *, progress: Progress | None = None, give_up: threading.Event | None = None):
        self.launch = launch
        self.watch: Watch | None = None
        """Sees every request that is taken; set it before the first one."""
        self.num_restarts = 0
        self._child: Child | None = Child(launch, progress=progress, give_up=give_up)
        """None: there is no process now."""
        self.facts = self._child.facts
        self._status = LastStatus(lambda: self._call("status"), self._child.status)
        self._start_seconds = self._child.start_seconds
        self._back_at = 0.0
        """When, on the clock, the next process should be ready."""
        self._trouble = ""
        """What happened to the last process."""
        self._is_changed = False
        """Whether the engine is not as it was made: paused, asleep, or with other weights."""
        self._pending: dict[int, PendingCall] = {}
        self._numbers = count(1)
        self._openings: dict[str, Opening] = {}
        self._listeners = Listeners()
        self._due: dict[str, float] = {}
        """When, on the clock, the deadlines of unfinished requests are that have one."""
        self._lock = threading.Lock()
        self._is_stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def num_requests(self) -> int:
        """Unfinished requests."""
        return len(self._listeners) + len(self._openings)

    @property
    def is_alive(self) -> bool:
        """Whether requests are worked on, for all that is known."""
        child = self._child
        is_well = child is not None and not is_quiet(child)
        return self._thread is not None and is_well and not self._is_stopping.is_set()

    def status(self) -> dict:
        """Numbers as plain data. While there is no process: the last ones, with the state "starting"."""
        child = self._child
        if not self._status.refresh() and child is None:
            self._status.numbers = self._status.numbers | {"state": "starting", "running": 0}
        worker = {
            "pid": child.pid if child is not None else None,
            "restarts": self.num_restarts,
            "last_end": self._trouble or None,
            "silent_seconds": child.silence.seconds if child is not None else None,
            "step_seconds": round(child.step_seconds, 3) if child is not None else None,
        }
        return {**self._status.numbers, "unfinished_requests": self.num_requests, "worker": worker}

    def start(self) -> None:
        self._thread = threading.Thread(target=self._supervise, name="hyla-engine-process", daemon=True)
        self._thread.start()
        threading.Thread(target=self._watch_over, name="hyla-engine-watch", daemon=True).start()

    def _watch_over(self) -> None:
        watch_over(lambda: self._child, self._is_stopping, self.launch.silence_seconds, on_tick=self._keep_time)

    def stop(self) -> None:
        """End the engine after its current step, or `stop_seconds` later; unfinished requests get a cancelled event."""
        self._is_stopping.set()
        with self._lock:
            if self._child is not None:
                self._child.send(Stop())
        if self._thread is not None:
            self._thread.join(self.launch.stop_seconds)
            child = self._child
            if self._thread.is_alive() and child is not None:
                child.kill(f"did not end within {self.launch.stop_seconds:g} s")
            self._thread.join(2 * KILL_SECONDS)
            self._thread = None
        elif self._child is not None:
            self._child.close()
            self._child = None

    # Requests, as of `EngineThread`

    def submit(self, request: Request, on_event: OnEvent) -> Request:
        """Waits until the process has taken the request, or refused it; no longer than the process lives, which ends
        when it says nothing."""
        return self.submitted(request, on_event).result()

    def submitted(self, request: Request, on_event: OnEvent) -> Future:
        """Like `submit`, without waiting: a Future of what it returns or raises."""
        opening, name = Opening(on_event), request.request_id
        if request.deadline_seconds is not None:
            opening.due = monotonic() + request.deadline_seconds
        with self._lock:
            if name in self._openings or name in self._listeners:
                raise RequestError(f"request id {name!r} is in use; choose another", "request_id")
            if len(self._openings) >= max(1, self.launch.max_requests):
                raise Overloaded(f"{len(self._openings)} requests wait to be taken by the engine; try again in 1 s")
            self._openings[name] = opening

        def forget(done: Future | None = None) -> None:
            with self._lock:
                if self._openings.get(name) is opening:  # it was not taken
                    del self._openings[name]

        try:
            future = self._call("submit", opening, request=request)
        except BaseException:
            forget()
            raise
        future.add_done_callback(forget)
        return future

    def cancel(self, request_id: str) -> None:
        with self._lock:
            if request_id in self._openings:
                self._openings[request_id].is_cancelled = True
            if self._child is not None:  # it may be dropped before its turn
                self._child.send(Cancel(request_id))

    def embed(self, command: EmbedCommand) -> Future:
        self.facts.check_text(command.token_ids)
        return self._call("embed", command=command)

    # Administration, as of `EngineThread`

    def pause(self, mode: Literal["finish", "keep", "abort"] = "finish") -> Future:
        return self._call("pause", mode=mode)

    def resume(self) -> Future:
        return self._call("resume")

    def sleep(self, *, release_weights: bool = False) -> Future:
        return self._call("sleep", release_weights=release_weights)

    def wake(self) -> Future:
        return self._call("wake")

    def update_weights(self, source) -> Future:
        return self._call("update_weights", source=source)

    def renew_weights(self, handed: HandedWeights) -> Future:
        return self._call("renew_weights", handed=handed)

    # Messages

    def _call(self, verb: str, opening: Opening | None = None, **arguments: Any) -> Future:
        pending = PendingCall(verb, Future(), opening)
        pending.future.set_running_or_notify_cancel()  # its answer comes, whether or not somebody waits
        with self._lock:
            if self._is_stopping.is_set():
                raise Overloaded("the server is shutting down; ask another one")
            if self._child is None:
                raise self._absence()
            if is_quiet(self._child):
                raise self._quiet(self._child)
            number = next(self._numbers)
            self._pending[number] = pending
            self._child.send(Call(number, verb, arguments))
        return pending.future

    def _absence(self) -> Overloaded:
        seconds = max(1, math.ceil(self._back_at - monotonic()))
        return Overloaded(
            f"the engine's process {self._trouble}; it is being started again, try again in {seconds} s", seconds
        )

    def _quiet(self, child: Child) -> Overloaded:
        """What is told instead of asking a process that has said nothing for a while."""
        left = max(1, math.ceil(self.launch.silence_seconds - child.silence.seconds + self._start_seconds))
        text = f"the engine's process has said nothing for {child.silence.seconds:.0f} s"
        return Overloaded(f"{text}; it is started again if it stays so, try again in {left} s", left)

    def _read(self, child: Child) -> None:
        """Carry what comes until the process is gone."""
        while (message := child.receive()) is not None:
            if isinstance(message, StepEvents):
                for event in message.events:
                    self._deliver(event)
            elif isinstance(message, Answer):
                self._take_answer(message)

    def _deliver(self, event: TokenEvent) -> None:
        opening = self._openings.get(event.request_id)
        if opening is not None:
            opening.early.append(event)
        elif not self._listeners.deliver(event):
            self.cancel(event.request_id)

    def _take_answer(self, answer: Answer) -> None:
        with self._lock:
            pending = self._pending.pop(answer.number, None)
        if pending is None:
            if isinstance(answer.value, Request):  # nobody waited so long for it to be taken
                self.cancel(answer.value.request_id)
            return
        if answer.error is not None:
            pending.future.set_exception(answer.error)
            return
        if pending.opening is not None:
            self._open(answer.value, pending.opening)
        elif pending.verb not in ("embed", "status"):
            told = answer.value
            self._is_changed = told["state"] != "running" or told["weights_version"] != 1
        pending.future.set_result(answer.value)

    def _open(self, request: Request, opening: Opening) -> None:
        """The process has taken a request: from now on its events go to whoever listens."""
        name = request.request_id
        on_event = opening.on_event if self.watch is None else self.watch(request, opening.on_event)
        with self._lock:
            self._listeners.add(request, on_event)
            del self._openings[name]
            if opening.due < math.inf:
                self._due[name] = opening.due
        for event in opening.early:
            self._deliver(event)
        if opening.is_cancelled:
            self.cancel(name)

    # Silence

    def _keep_time(self, child: Child) -> None:
        """End what is past its deadline where the process does not."""
        with self._lock:
            self._due = {name: due for name, due in self._due.items() if name in self._listeners}
        if not is_quiet(child):
            return
        error, now = self._quiet(child), monotonic()
        with self._lock:
            openings = [own for own in self._pending.values() if own.opening is not None and own.opening.due < now]
            late = [name for name, due in self._due.items() if due < now]
            self._pending = {number: own for number, own in self._pending.items() if own not in openings}
        for own in openings:
            own.future.set_exception(error)
        for name in late:
            self._listeners.end(name, "error", str(error), retry_after_seconds=error.retry_after_seconds)
            self.cancel(name)

    # Deaths

    def _supervise(self) -> None:
        child, pause = self._child, 0.0
        while child is not None:
            self._read(child)
            with self._lock:
                self._child = None
                if not self._is_stopping.is_set():
                    self._trouble, self._back_at = "has ended", monotonic() + self._start_seconds
            end = child.close()
            if self._is_stopping.is_set():
                self._lose(HylaError("the engine has stopped"), "cancelled")
                return
            is_steady = monotonic() - child.ready_at > STEADY_SECONDS
            pause = 0.0 if is_steady else min(max(1.0, 2 * pause), LONGEST_PAUSE)
            self._trouble, self._back_at = end, monotonic() + pause + self._start_seconds
            logger.error("the engine's process %d %s; it is started again in %.0f s", child.pid, end, pause)
            self._lose(self._absence(), "error")
            child = self._start_again(pause)

    def _lose(self, error: HylaError, reason: Literal["cancelled", "error"]) -> None:
        """Everything under way ends."""
        with self._lock:
            pending, self._pending = self._pending, {}
        for call in pending.values():
            call.future.set_exception(error)
        retry = error.retry_after_seconds if isinstance(error, Overloaded) else None
        for name in self._listeners.request_ids:
            self._listeners.end(name, reason, str(error), retry_after_seconds=retry)

    def _start_again(self, pause: float) -> Child | None:
        """A new process; None when this object is stopped before there is one."""
        while not self._is_stopping.wait(pause):
            try:
                child = Child(self.launch, give_up=self._is_stopping)
            except (HylaError, OSError) as error:
                if self._is_stopping.is_set():
                    return None
                pause = min(max(1.0, 2 * pause), LONGEST_PAUSE)
                self._trouble = f"cannot be started: {error}"
                self._back_at = monotonic() + pause + self._start_seconds
                logger.error("the engine's process cannot be started: %s; next attempt in %.0f s", error, pause)
                continue
            self._take_over(child)
            return child
        return None

    def _take_over(self, child: Child) -> None:
        if self._is_changed:
            logger.warning("the engine is as it was made, not as it was changed since; it is paused until resumed")
            child.send(Call(0, "pause", {"mode": "keep"}))  # ahead of any request; nobody waits for the answer
        self.facts, self._start_seconds = child.facts, child.start_seconds
        with self._lock:
            self._child, self.num_restarts = child, self.num_restarts + 1
        if self._is_stopping.is_set():
            child.send(Stop())  # `stop` may have come before there was somebody to tell
        logger.warning("the engine's process runs again, as %d, after %.1f s", child.pid, child.start_seconds)
