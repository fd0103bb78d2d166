"""Two processes that compute in turn, so that a change of the machine's speed meets both (bench/revisions.py).

One baton goes from one to the other over pipes. A process has it whenever it does anything; it hands it over where it
calls `take_turn`, and goes on when it has it back. Alone, `take_turn` does nothing.
"""

from __future__ import annotations

import os
import sys
import time

VARIABLE = "BENCH_TURNS"
"""In the environment: the descriptor to read from, the one to write to, and "first" or "second"."""
QUIET_SECONDS = 0.05
"""Until the other's threads have stopped spinning."""
_pipes: tuple[int, int] | None = None


def join() -> None:
    """Become one of the two if the environment says so; the second one waits here for its first turn."""
    global _pipes
    wanted = os.environ.pop(VARIABLE, None)
    if wanted is None:
        return
    reading, writing, place = wanted.split()
    _pipes = int(reading), int(writing)
    if place == "second":
        _wait()


def take_turn() -> None:
    """Let the other one compute up to its next turn."""
    if _pipes is None:
        return
    try:
        os.write(_pipes[1], b".")
    except BrokenPipeError:  # the other one has ended
        return
    _wait()


def _wait() -> None:
    assert _pipes is not None
    if os.read(_pipes[0], 1):  # nothing: the other one has ended
        torch = sys.modules.get("torch")
        time.sleep(QUIET_SECONDS if torch is None or torch.get_num_threads() > 1 else 0)
