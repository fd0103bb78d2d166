"""The inner end for a file of the user's: its text is run once, then its functions do one job after another."""

from __future__ import annotations

import os
import reprlib
import signal
import sys
import traceback
import types
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from hyla.limited_process.inside import reader, reason, send
from hyla.limited_process.line import receive

SLACK_SECONDS = 5
"""After its time the process that started this one ends it; so long after that, where that one is gone, the system."""
MODULE = "user_file"
SHOWN = reprlib.Repr()
SHOWN.maxstring = SHOWN.maxother = 60


def serve(begin: Callable[[dict], dict], work: Callable[[dict], dict]) -> None:
    """Take messages on standard input and answer on standard output, until the input ends.

    begin: takes the first message, which has `memory_bytes`; work: all others. Each message has `seconds`, after which
    the process ends by itself. What they raise becomes an answer with `problem`.
    """
    line = _line_of_our_own()
    read, own = reader(line), os.getpid()
    start = receive(read)
    if start is None:
        return
    _limit_memory(start["memory_bytes"])
    reply = _answered(start, partial(begin, start))
    # A fork that came back from the function says nothing.
    while os.getpid() == own and send(reply, line) and (job := receive(read)) is not None:
        reply = _answered(job, partial(work, job))
    os._exit(0)  # whatever threads or exit handlers the file has left


def _line_of_our_own() -> int:
    """Standard input and output lead nowhere from here: what the file prints or reads never meets the messages."""
    line = os.dup(0)
    with open(os.devnull, "r+b", buffering=0) as nowhere:
        for number in (0, 1, 2):
            os.dup2(nowhere.fileno(), number)
    return line


def _limit_memory(num_bytes: int) -> None:
    with suppress(ImportError):
        import resource

        for kind, limit in (("AS", num_bytes), ("CORE", 0)):
            with suppress(AttributeError, ValueError, OSError):
                resource.setrlimit(getattr(resource, f"RLIMIT_{kind}"), (limit, limit))


def _answered(job: dict, work: Callable[[], dict]) -> dict:
    """What a job makes, or what went wrong in it."""
    _end_after(job["seconds"] + SLACK_SECONDS)
    try:
        return work()
    except BaseException as error:  # SystemExit too: nothing but the end of the input ends this process
        return {"problem": _raised(error)}
    finally:
        _end_after(0)


def _end_after(seconds: float) -> None:
    with suppress(AttributeError, ValueError, OSError):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def loaded(file: str, source: str) -> types.ModuleType | str:
    """The file's module, run from its text, or what is wrong with it. Its folder becomes the first of the path."""
    sys.path.insert(0, os.path.dirname(file))
    module = sys.modules[MODULE] = types.ModuleType(MODULE)
    module.__file__ = file
    try:
        code = compile(source, file, "exec", dont_inherit=True)
    except SyntaxError as error:
        return f"line {error.lineno} is no Python: {error.msg}; correct it"
    try:
        exec(code, module.__dict__)
    except BaseException as error:
        return f"running the file {_raised(error)}; correct it"
    return module


def shown(value: Any) -> str:
    """A value of the user's in few words."""
    try:
        return SHOWN.repr(value)
    except Exception:
        return f"a {type(value).__name__}"


def _raised(error: BaseException) -> str:
    """ "raised ValueError: what it says (line 3)", with the last line of the file that it passed."""
    kind = type(error).__name__
    try:
        said = reason(error)
    except Exception:  # an error that cannot even be told
        said = ""
    file = getattr(sys.modules.get(MODULE), "__file__", None)
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == file]
    where = f" (line {lines[-1]})" if lines else ""
    return f"raised {kind}{f': {said}' if said not in ('', kind) else ''}{where}"
