"""Watches an engine's process from outside: its silence, and steps that take long."""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Event

from hyla.engine.hosting.child import Child
from hyla.engine.hosting.heartbeat import BEAT_SECONDS

logger = logging.getLogger(__name__)

QUIET_SECONDS = 5.0
"""A process that has said nothing for so long gets no more requests until it does."""
LONG_STEP_SECONDS = 60.0
"""A step that takes longer stands in the log."""


def is_quiet(child: Child) -> bool:
    return child.silence.seconds >= QUIET_SECONDS


def watch_over(
    present: Callable[[], Child | None],
    is_stopping: Event,
    silence_seconds: float,
    *,
    on_tick: Callable[[Child], None],
) -> None:
    """Count the silence of the present process, a beat's time at a time, until the event is set; end one that says
    nothing for `silence_seconds`. On a thread of its own: whoever reads from the process may be in the middle of a
    message that does not go on.

    on_tick: called each time, with a process that is not ended.
    """
    is_told = False
    while not is_stopping.wait(BEAT_SECONDS):
        child = present()
        if child is None:
            continue
        if child.silence.tick() >= silence_seconds:
            child.kill(f"said nothing for {silence_seconds:g} s")
            continue
        on_tick(child)
        is_long = child.step_seconds > LONG_STEP_SECONDS
        if is_long and not is_told:
            logger.warning("a step of the engine has been running for %.0f s and goes on", child.step_seconds)
        is_told = is_long
