"""The process of an engine: an `EngineThread` that is spoken to over a pipe. `EngineProcess` starts and watches it."""

from __future__ import annotations

import logging
import signal
from concurrent.futures import Future

from hyla.engine.hosting.heartbeat import Heart, Pipe
from hyla.engine.hosting.thread import EngineThread
from hyla.engine.hosting.wire import Answer, Call, Cancel, Launch, Loading, Ready, Rejected, StepEvents, Stop
from hyla.engine.requests.messages import TokenEvent
from hyla.errors import HylaError

logger = logging.getLogger(__name__)

VERBS = frozenset({"submit", "embed", "status", "pause", "resume", "sleep", "wake", "update_weights", "renew_weights"})
"""Methods of `EngineThread` that may be called over the pipe."""


def work(pipe: Pipe, heart: Heart, launch: Launch) -> None:
    """The whole life of the process: make the engine, serve it, and end with the other side or when told."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # meant for the server, which finishes its answers and then says Stop
    if launch.prepare is not None:
        launch.prepare()
    try:
        engine = _make(launch, pipe)
    except HylaError as error:
        pipe.send(Rejected(error))
        return
    engine.try_grammars_first()
    thread = EngineThread(engine, max_requests=launch.max_requests)
    worker = Worker(pipe, thread)
    heart.step_seconds = thread.step_seconds
    thread.start()
    try:
        worker.serve()
    finally:
        thread.stop()
        pipe.close()


def _make(launch: Launch, pipe: Pipe):
    from hyla.engine.engine import Engine
    from hyla.engine.threads import default_threads

    def tell(done: int, total: int) -> None:
        pipe.send(Loading(done, total))

    options = dict(launch.options)
    options["threads"] = options.get("threads") or default_threads()
    return Engine(launch.folder, progress=tell, **options)


class Worker:
    """Carries calls from the pipe to the thread, and answers and events back, the events of a step in one message."""

    def __init__(self, pipe: Pipe, thread: EngineThread):
        self._pipe, self._thread = pipe, thread
        self._events: list[TokenEvent] = []
        """The events of the present step; touched by the engine's thread only."""
        thread.after_step = self._tell

    def serve(self) -> None:
        """Until told to stop, or the other side is gone."""
        self._pipe.send(Ready(self._thread.facts, self._thread.status()))
        while not isinstance(message := self._pipe.receive(), Stop):
            if isinstance(message, Cancel):
                self._thread.cancel(message.request_id)
            else:
                self._carry_out(message)

    def _carry_out(self, call: Call) -> None:
        try:
            if call.verb not in VERBS:
                raise HylaError(f"an engine's process does not know {call.verb!r}")
            if call.verb == "submit":
                value = self._thread.submitted(**call.arguments, on_event=self._events.append)
            else:
                value = getattr(self._thread, call.verb)(**call.arguments)
        except Exception as error:  # whoever called gets it
            self._pipe.send(Answer(call.number, error=_plain(error)))
            return
        if isinstance(value, Future):
            value.add_done_callback(lambda done: self._pipe.send(_answer(call.number, done)))
        else:
            self._pipe.send(Answer(call.number, value))

    def _tell(self) -> None:
        events, self._events[:] = tuple(self._events), []
        if events:
            self._pipe.send(StepEvents(events))


def _answer(number: int, done: Future) -> Answer:
    error = done.exception()
    return Answer(number, error=_plain(error)) if error is not None else Answer(number, done.result())


def _plain(error: BaseException) -> Exception:
    """An error that can be sent; what is a fault of ours is logged here, where its traceback is."""
    if isinstance(error, HylaError):
        return error
    logger.error("a call of the engine failed", exc_info=error)
    return RuntimeError(f"{type(error).__name__}: {error}")
