"""The process that runs a model's chat templates, seen from outside: started, asked, and ended past its bounds."""

from __future__ import annotations

import signal
import weakref
from collections.abc import Mapping
from threading import Lock
from typing import Any

import jinja2

from hyla.checkpoints.templates.values import written_arguments
from hyla.limited_process.outside import Ended, LimitedProcess, TooLong

CPU_SECONDS = 4
"""Processor time of one conversation, and of compiling; a prompt of a megabyte takes some tenths of a second."""
WALL_SECONDS = 60.0
"""Of a job whose processor time does not pass; also the longest that a busy machine may take to start it."""
MEMORY_BYTES = 1 << 30
"""Address space of the whole process, of which Python and Jinja take 25 MB."""
OUTPUT_CHARS = 16 << 20
"""Characters of one prompt."""
MOST_REPLY_BYTES = 8 * OUTPUT_CHARS
"""JSON escapes a character with six bytes at most."""

WORKER = "hyla.checkpoints.templates.worker"


class Excess(Exception):
    """A template went past a bound; the text says which."""


class _Killed(Excess):
    """Somebody else ended its process: the system, short of memory, or a person."""


class Failure(Exception):
    """A template did not work. is_refusal: it said no itself, in these words."""

    def __init__(self, reason: str, *, is_refusal: bool = False):
        super().__init__(reason)
        self.is_refusal = is_refusal


class NotCompiled(Exception):
    """A template cannot even be compiled, or not within the bounds; the text says why."""


class TemplateProcess:
    """Runs templates in a process that has bounds. It is started at the first use, again after it had to be ended, and
    ends with this object or with the program.

    Callers on several threads take turns. sources: texts of the templates by name.
    """

    def __init__(self, sources: Mapping[str, str]):
        self.sources = dict(sources)
        self._lock = Lock()
        self._children: list[LimitedProcess] = []
        """None or one."""
        weakref.finalize(self, _end_all, self._children)

    def start(self) -> None:
        """Have it running with all templates compiled. Raises NotCompiled."""
        with self._lock:
            self._ready()

    def render(self, template: str, names: Mapping[str, Any]) -> str:
        """The text of a template, by its name. names: JSON values, `messages` among them.

        Raises NotCompiled, Excess or Failure; TypeError or ValueError for values that are none of JSON's.
        """
        messages = list(names["messages"])
        job = {"template": template, "names": {**names, "messages": messages}, "arguments": written_arguments(messages)}
        with self._lock:
            try:
                return self._asked(self._ready(), job)["text"]
            except _Killed:
                return self._asked(self._ready(), job)["text"]

    def close(self) -> None:
        """End the process; the next use starts another one."""
        with self._lock:
            _end_all(self._children)

    def _ready(self) -> LimitedProcess:
        if self._children and self._children[0].is_usable:
            return self._children[0]
        _end_all(self._children)
        try:
            child = LimitedProcess(WORKER, finds=[jinja2])
        except OSError as error:
            raise NotCompiled(f"its process cannot be started ({error})") from error
        self._children.append(child)
        bounds = {"cpu_seconds": CPU_SECONDS, "memory_bytes": MEMORY_BYTES, "output_chars": OUTPUT_CHARS}
        try:
            self._asked(child, {"sources": self.sources, **bounds})
        except (Excess, Failure) as error:
            _end_all(self._children)
            raise NotCompiled(str(error)) from error
        return child

    def _asked(self, child: LimitedProcess, message: dict) -> dict:
        try:
            reply = _reply(child, message)
            if excess := reply.get("excess"):
                raise Excess(_EXCESSES[excess])
        except Excess:
            _end_all(self._children)
            raise
        for kind in ("failure", "refusal"):
            if kind in reply:
                raise Failure(reply[kind], is_refusal=kind == "refusal")
        return reply


def _reply(child: LimitedProcess, message: dict) -> dict:
    try:
        return child.ask(message, seconds=WALL_SECONDS, most_bytes=MOST_REPLY_BYTES)
    except TooLong as error:
        raise Excess(f"takes more than {WALL_SECONDS:.0f} seconds") from error
    except Ended as error:
        if error.code == -getattr(signal, "SIGXCPU", 0):
            raise Excess(f"takes more than {CPU_SECONDS} seconds of processor time") from error
        kind = _Killed if error.code == -getattr(signal, "SIGKILL", 0) else Excess
        raise kind(str(error)) from error


_EXCESSES = {
    "memory": f"takes more than {MEMORY_BYTES >> 20} MiB of memory",
    "output": f"writes more than {OUTPUT_CHARS:,} characters",
}


def _end_all(children: list[LimitedProcess]) -> None:
    while children:
        children.pop().end()
