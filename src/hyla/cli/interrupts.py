"""Ctrl-C as a wish to stop soon, for work that keeps what it has."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STATUS = 130
"""Exit status of a verb that Ctrl-C ended, as shells have it."""


@contextmanager
def stopped_by_ctrl_c(say: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    """Within it the first Ctrl-C only makes the given function return True; the second one interrupts at once.

    say: told about the first. Outside of the main thread nothing is caught, since Python delivers no signals there.
    """
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped.is_set
        return
    before = signal.getsignal(signal.SIGINT)

    def stop(number, frame):
        # Not what was there before: a shell starts what is in the background with interrupts ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stopped.set()
        say("stopping after this step; Ctrl-C again stops at once and keeps the last checkpoint")

    signal.signal(signal.SIGINT, stop)
    try:
        yield stopped.is_set
    finally:
        signal.signal(signal.SIGINT, before)
