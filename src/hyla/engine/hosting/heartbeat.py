"""Signs of life from an engine's process: a thread beside the engine's says now and then that the process runs, and for
how long the present step has. A step may take minutes; a process that says nothing is stopped, or stuck as a whole."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection

from hyla.engine.hosting.wire import Beat, Call, Cancel, Launch, Stop

BEAT_SECONDS = 1.0
"""Time between two beats."""


class Pipe:
    """The engine's end of the pipe, for several threads. What the other side no longer reads is dropped."""

    def __init__(self, connection: Connection):
        self._connection, self._lock = connection, threading.Lock()

    def send(self, message: object) -> bool:
        """False: the server is gone, and `receive` says so, too."""
        try:
            with self._lock:
                self._connection.send(message)
        except OSError:
            return False
        return True

    def receive(self) -> Call | Cancel | Stop:
        """The next message; `Stop` when the other side is gone."""
        try:
            return self._connection.recv()
        except (EOFError, OSError):
            return Stop()

    def receive_launch(self) -> Launch | None:
        """The first message; None when the other side is gone and there is nothing to launch."""
        try:
            return self._connection.recv()
        except (EOFError, OSError):
            return None

    def close(self) -> None:
        self._connection.close()


class Heart:
    """Beats from its start to the end of the process. It begins before anything is loaded, which may take long.

    stop_seconds: a process without a server ends by itself after its step, and by this after so long; one that is still
    loading at once, for there is nothing to finish.
    """

    def __init__(self, pipe: Pipe, stop_seconds: float):
        self._pipe, self._stop_seconds = pipe, stop_seconds
        self.step_seconds: Callable[[], float] | None = None
        """How long the present step has run; set when there is an engine."""

    def start(self) -> None:
        threading.Thread(target=self._beat, name="hyla-heartbeat", daemon=True).start()

    def _beat(self) -> None:
        pause = threading.Event()
        while not pause.wait(BEAT_SECONDS):
            if not self._pipe.send(Beat(self.step_seconds() if self.step_seconds is not None else 0.0)):
                break
        if self.step_seconds is not None:
            pause.wait(self._stop_seconds)
        os._exit(1)


class Silence:
    """How long nothing came from a process, counted by whoever waits for it: while the waiting process itself is
    stopped, nothing is counted."""

    def __init__(self):
        self._ticks = 0

    @property
    def seconds(self) -> float:
        return self._ticks * BEAT_SECONDS

    def tick(self) -> float:
        """A beat's time has passed. Returns the seconds of silence."""
        self._ticks += 1
        return self.seconds

    def broken(self) -> None:
        """Something came."""
        self._ticks = 0
