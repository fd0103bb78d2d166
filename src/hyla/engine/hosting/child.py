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
from hyla.engine.hosting.wire import Launch, Loading, Ready, Rejected
from hyla.errors import HylaError

Progress = Callable[[int, int], None]

POLL_SECONDS = 0.2


class Child:
    """Starts the process and waits until its engine is ready.

    progress: of loading. give_up: set by another thread, it ends the waiting.
    Raises what keeps the engine from being made (ConfigError, CheckpointError, ...), HylaError when the process dies.
    """

    def __init__(self, launch: Launch, *, progress: Progress | None = None, give_up: Event | None = None):
        context = multiprocessing.get_context("spawn")
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
        while True:
            while not self._connection.poll(POLL_SECONDS):
                if give_up is not None and give_up.is_set():
                    raise HylaError("starting the engine was given up")
            message = self.receive()
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
            return self._connection.recv()
        except (EOFError, OSError):
            return None

    def close(self) -> str:
        """Let the process end, if it has not, and wait for it; returns how it ended."""
        atexit.unregister(self.close)
        if self._writer is not None:
            self._outgoing.put(None)
            self._writer.join(POLL_SECONDS)
        self._connection.close()
        return self._end()

    def _end(self) -> str:
        self._process.join()
        code = self._process.exitcode
        if code is None:
            return "has not ended"
        if code >= 0:
            return f"ended with exit code {code}"
        more = ", as it is when memory runs out" if -code == signal.SIGKILL else ""
        return f"was killed by signal {-code} ({signal.Signals(-code).name}{more})"


def _work(connection: Connection, launch: Launch) -> None:
    from hyla.engine.hosting.worker import work

    work(connection, launch)
