"""One try of one run, in the process that computes it."""

from __future__ import annotations

import json
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from hyla.errors import ConfigError
from hyla.study.execution.progress import Step, Stopped, ask_to_stop, forget, read_step
from hyla.study.execution.protocol import Ending, Try, function_at
from hyla.train.files import held

LOOK_SECONDS = 0.5
"""Between two looks at where a run is, and at whether it should stop."""
PATIENCE = 60.0
"""Seconds until the processes of a killed driver have ended, too."""
MOST_CHARS = 300
"""Of an error in a line."""

Look = Callable[[Step | None], bool]
"""Told where the run is (None: as before); says whether it should stop."""


def attempt(execute: str, one: Try, look: Look) -> Ending:
    """Carry out a run here. Whatever it raises is its ending; KeyboardInterrupt alone goes on."""
    try:
        with _alone(one.work):
            if one.is_anew:
                shutil.rmtree(one.work, ignore_errors=True)
            one.work.mkdir(parents=True, exist_ok=True)
            forget(one.work)
            with _watched(one.work, look):
                try:
                    result = function_at(execute)(one.job, one.work)
                except ConfigError as error:
                    return _failed(error, is_final=True)
        return _checked(result)
    except Stopped:
        return Ending("stopped")
    except (Exception, SystemExit) as error:
        return _failed(error)


def _failed(error: BaseException, is_final: bool = False) -> Ending:
    return Ending("failed", error=in_a_line(error), trace=traceback.format_exc(), is_final=is_final)


def in_a_line(error: BaseException) -> str:
    """An error as part of a line.

    >>> in_a_line(ValueError("no\\n  such thing"))
    'ValueError: no such thing'
    """
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= MOST_CHARS else text[:MOST_CHARS] + "…"


def _checked(result: object) -> Ending:
    """What was returned, if it can be kept: as JSON says it back, so that a result from another process is no other."""
    if not isinstance(result, dict):
        raise TypeError(f"a run returned a {type(result).__name__}; its result must be a dict")
    return Ending("finished", json.loads(json.dumps(result)))


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Nobody else carries out this run here meanwhile. Its last process may still be about to end."""
    deadline = time.monotonic() + PATIENCE
    with ExitStack() as holding:
        while True:
            try:
                holding.enter_context(held(work.with_name(f"{work.name}.try")))
                break
            except ConfigError:
                if time.monotonic() > deadline:
                    raise ConfigError(f"another process works in {work}; end it, then give the command again") from None
            time.sleep(LOOK_SECONDS)
        yield


@contextmanager
def _watched(work: Path, look: Look) -> Iterator[None]:
    """Within it a thread looks now and then. What goes wrong there stops the run, and is raised at its end."""
    is_over, faults = threading.Event(), []

    def watch() -> None:
        seen: Step | None = None
        try:
            while not is_over.wait(LOOK_SECONDS):
                step = read_step(work)
                if look(None if step == seen else step):
                    ask_to_stop(work)
                seen = step
        except Exception as error:
            faults.append(error)
            ask_to_stop(work)

    thread = threading.Thread(target=watch, name="watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        if faults:
            raise faults[0]
