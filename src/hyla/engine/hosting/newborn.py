"""A process for an engine that has been started before anybody can say for which: it loads PyTorch meanwhile.

Imports nothing that takes time, so that a command line can begin with it (`expect`).
"""

from __future__ import annotations

import gc
import multiprocessing
import signal
from multiprocessing.connection import Connection


class Newborn:
    """A process at the other end of `connection`; the first message that it waits for is its `wire.Launch`.

    It ends by itself when the connection is closed.
    """

    def __init__(self):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_live, args=(theirs,), name="hyla-engine", daemon=True)
        self.process.start()
        theirs.close()  # so that the end of the process is the end of the pipe


_expected: list[Newborn] = []


def expect() -> None:
    """Start a process for the next engine now."""
    _expected.append(Newborn())


def take() -> Newborn:
    """The process that was started for this engine, or one that is started now."""
    return _expected.pop() if _expected else Newborn()


def _live(connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # meant for the command line, whose end closes the connection
    gc.disable()  # imports make objects that stay: looking for garbage among them took a sixth of PyTorch's import
    from hyla.engine.waiting_threads import load_torch

    load_torch()  # what takes longest, and nobody needs to be asked for it

    from hyla.engine.hosting.heartbeat import Heart, Pipe

    pipe = Pipe(connection)
    launch = pipe.receive_launch()
    if launch is None:
        return
    heart = Heart(pipe, launch.stop_seconds)
    heart.start()  # loading what follows may take long
    from hyla.engine.hosting.worker import work

    gc.freeze()
    gc.enable()
    work(pipe, heart, launch)
