"""One life of an engine's process, seen from outside."""

from __future__ import annotations

import atexit
import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from queue import SimpleQueue
from threading import Event, Thread

from hyla.engine.clock import monotonic
from hyla.engine.hosting.heartbeat import BEAT_SECONDS, Heart, Pipe, Silence
from hyla.engine.hosting.wire import Beat, Launch, Loading, Ready, Rejected
from hyla.errors import HylaError

Progress = Callable[[int, int], None]

POLL_SECONDS = 0.2
FIRST_WORD_SECONDS = 120.0
"""How long Python may take to start and to load what speaks first, where that is more than `silence_seconds`."""
KILL_SECONDS = 10.0
"""How long a killed process may take to be gone."""


class Child:
    """Starts the process and waits until its engine is ready.

    progress: of loading. give_up: set by another thread, it ends the waiting.
    Raises what keeps the engine from being made (ConfigError, CheckpointError, ...), HylaError when the process dies.
    """

    def __init__(self, launch: Launch, *, progress: Progress | None = None, give_up: Event | None = None):
        context = multiprocessing.get_context("spawn")
        self._launch = launch
        self.silence = Silence()
        self.step_seconds = 0.0
        """How long the step has run that the process was at when it said so last."""
        self._killed_for: str | None = None
        self._connection, theirs = context.Pipe()
        self._outgoing: SimpleQueue[bytes | None] = SimpleQueue()
        self._writer: Thread | None = None
        self._process = context.Process(target=_work, args=(theirs, launch), name="hyla-engine", daemon=True)
        begun = monotonic()
        self._process.start()
        theirs.close()  # so that the end of the process is the end of the pipe
        atexit.register(self.close)
        try:
            ready = self._wait(progress, give_up)
        except BaseException:
            self._process.kill()
            self.close()
            raise
        self.facts, self.status = ready.facts, ready.status
        self._writer = Thread(target=self._write, name="hyla-engine-pipe", daemon=True)
        self._writer.start()
        self.ready_at = monotonic()
        self.start_seconds = self.ready_at - begun
        """Seconds from the start of the process until the engine was ready."""

    @property
    def pid(self) -> int:
        pid = self._process.pid
        if pid is None:
            raise HylaError("the engine's process was not started")
        return pid

    def _wait(self, progress: Progress | None, give_up: Event | None) -> Ready:
        silent_at, limit = monotonic(), max(self._launch.silence_seconds, FIRST_WORD_SECONDS)
        while True:
            while not self._connection.poll(POLL_SECONDS):
                if give_up is not None and give_up.is_set():
                    raise HylaError("starting the engine was given up")
                if monotonic() - silent_at >= BEAT_SECONDS:
                    silent_at = monotonic()
                    if self.silence.tick() >= limit:
                        raise HylaError(f"the engine's process said nothing for {limit:g} s while it was starting")
            message, limit = self.receive(), self._launch.silence_seconds
            if message is None:
                raise HylaError(f"the engine's process {self._end()} while it was starting")
            if isinstance(message, Rejected):
                raise message.error
            if isinstance(message, Ready):
                return message
            if isinstance(message, Loading) and progress is not None:
                progress(message.done, message.total)

    def send(self, message: object) -> None:
        """From any thread, without waiting: whoever reads from the process must never wait for it to read.

        When the process is gone, nothing: `receive` will say it.
        """
        self._outgoing.put(bytes(ForkingPickler.dumps(message)))

    def _write(self) -> None:
        while (message := self._outgoing.get()) is not None:
            try:
                self._connection.send_bytes(message)
            except OSError:
                return

    def receive(self) -> object | None:
        """The next message; None when the process is gone."""
        try:
            message = self._connection.recv()
        except (EOFError, OSError, TypeError):  # TypeError: closed by another thread in the middle of a read
            return None
        self.silence.broken()
        if isinstance(message, Beat):
            self.step_seconds = message.step_seconds
        return message

    def kill(self, reason: str) -> None:
        """End the process at once; `receive` will say that it is gone, and `close` why: it did `reason`."""
        self._killed_for = reason
        self._process.kill()

    def close(self) -> str:
        """Let the process end, if it has not, and wait for it, but not for ever; returns how it ended."""
        atexit.unregister(self.close)
        if self._writer is not None:
            self._outgoing.put(None)
            self._writer.join(POLL_SECONDS)
        self._connection.close()
        return self._end()

    def _end(self) -> str:
        self._process.join(self._launch.stop_seconds)
        if self._process.exitcode is None:
            self.kill(f"did not end within {self._launch.stop_seconds:g} s")
            self._process.join(KILL_SECONDS)
        code = self._process.exitcode
        if code is None:
            return f"{self._killed_for} and cannot be killed"
        if self._killed_for is not None and code == -signal.SIGKILL:
            return f"{self._killed_for} and was killed"
        if code >= 0:
            return f"ended with exit code {code}"
        more = ", as it is when memory runs out" if -code == signal.SIGKILL else ""
        return f"was killed by signal {-code} ({signal.Signals(-code).name}{more})"


def _work(connection: Connection, launch: Launch) -> None:
    pipe = Pipe(connection)
    heart = Heart(pipe, launch.stop_seconds)
    heart.start()  # loading what follows may take long
    from hyla.engine.waiting_threads import load_torch

    load_torch()
    from hyla.engine.hosting.worker import work

    work(pipe, heart, launch)
