"""A template's own process: compiles it once, then renders one conversation after another. Needs no PyTorch."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from hyla.checkpoints.templates.sandbox import TemplateRefusal, environment
from hyla.checkpoints.templates.values import restore_arguments
from hyla.limited_process.inside import reader, reason, send
from hyla.limited_process.line import receive


class _TooLong(Exception):
    """More text than a prompt may have."""


def main() -> None:
    """Take what comes on standard input and answer on standard output, until the input ends."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # whoever ends a whole group means the process that uses this one
        if (number := getattr(signal, name, None)) is not None:
            signal.signal(number, signal.SIG_IGN)
    read = reader()
    start = receive(read)
    if start is None:
        return
    bounds = _Bounds(start["cpu_seconds"], start["memory_bytes"])
    compiled: dict[str, Any] = {}
    reply = _answer(bounds, lambda: _compile(start["sources"], compiled))
    while reply is not None and send(reply) and "excess" not in reply:
        reply = _answer(bounds, lambda: _next(read, compiled, start["output_chars"]))


class _Bounds:
    """What the system allows this process. Where it has no such limits, its user's clock is the only one."""

    def __init__(self, cpu_seconds: int, memory_bytes: int):
        self.cpu_seconds = cpu_seconds
        with suppress(ImportError):
            import resource

            for kind, limit in (("AS", memory_bytes), ("CORE", 0), ("FSIZE", 0), ("NPROC", 0)):
                with suppress(AttributeError, ValueError, OSError):
                    resource.setrlimit(getattr(resource, f"RLIMIT_{kind}"), (limit, limit))

    def renew(self) -> None:
        """The next job has its own time; past it the system ends the process."""
        with suppress(ImportError, ValueError, OSError):
            import resource

            hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
            resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 1 + self.cpu_seconds, hard))


def _answer(bounds: _Bounds, work: Callable[[], dict | None]) -> dict | None:
    """What a job makes, or what went wrong in it, in few words; None when there is no further one."""
    bounds.renew()
    try:
        return work()
    except TemplateRefusal as error:
        return {"refusal": reason(error)}
    except MemoryError:
        return {"excess": "memory"}
    except _TooLong:
        return {"excess": "output"}
    except Exception as error:  # a template is a program from elsewhere: it can fail in any way
        return {"failure": reason(error)}


def _compile(sources: dict[str, str], compiled: dict[str, Any]) -> dict:
    for name, source in sources.items():
        compiled[name] = environment().from_string(source)
    return {}


def _next(read: Callable[[int], bytes], compiled: dict[str, Any], most_chars: int) -> dict | None:
    job = receive(read)
    return None if job is None else {"text": _render(compiled, job, most_chars)}


def _render(compiled: dict[str, Any], job: dict, most_chars: int) -> str:
    names = job["names"]
    restore_arguments(names["messages"], job["arguments"])
    pieces, num_chars = [], 0
    for piece in compiled[job["template"]].generate(names):
        pieces.append(piece)
        num_chars += len(piece)
        if num_chars > most_chars:
            raise _TooLong
    return "".join(pieces)
