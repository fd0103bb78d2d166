"""The process that runs a model's chat templates, seen from outside: started, asked, and ended past its bounds."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import jinja2

from hyla import lazy
from hyla.checkpoints.templates.values import pack, receive, written_arguments

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

BOOT = "import sys; sys.path[:] = sys.argv[1:]; from hyla.checkpoints.templates.worker import main; main()"
KEPT_VARIABLES = ("LD_LIBRARY_PATH", "PATH", "SYSTEMROOT", "TZ")
"""The environment that it gets: no keys, no tokens."""


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


class _Child:
    """One life of the process, and our end of the line to it."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        ours, theirs = socket.socketpair()
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", BOOT, *_search_path()],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
                env={name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ},
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self.line = ours

    @property
    def is_usable(self) -> bool:
        """Whether it lives, and is ours: after a fork two processes hold the line."""
        return self.owner == os.getpid() and self.process.poll() is None

    def ask(self, message: Any) -> dict:
        """Send a message and wait for the answer. Raises Excess when there comes none."""
        end = time.monotonic() + WALL_SECONDS

        def read(size: int) -> bytes:
            self._wait_until(end)
            return self.line.recv(size)

        data, reply = pack(message), None
        try:
            self._wait_until(end)
            self.line.sendall(data)
            reply = receive(read, most_bytes=MOST_REPLY_BYTES)
        except TimeoutError as error:
            self.end()
            raise Excess(f"takes more than {WALL_SECONDS:.0f} seconds") from error
        except (OSError, ValueError):  # it ended before it had read all, or has lost its mind
            pass
        if reply is None:
            raise self._how_it_ended()
        return reply

    def _wait_until(self, end: float) -> None:
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.line.settimeout(left)

    def _how_it_ended(self) -> Excess:
        try:
            code = self.process.wait(WALL_SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        if code == -getattr(signal, "SIGXCPU", 0):
            return Excess(f"takes more than {CPU_SECONDS} seconds of processor time")
        kind = _Killed if code == -getattr(signal, "SIGKILL", 0) else Excess
        return kind(f"ended its process (exit code {code})")

    def end(self) -> None:
        """Kill it and forget it."""
        self.line.close()
        if self.owner == os.getpid():
            self.process.kill()
            self.process.wait()


def _search_path() -> list[str]:
    """Where this process found its modules: the other one has the same, without running any start-up file."""
    found = [Path(module.__file__ or "").absolute().parents[1] for module in (lazy, jinja2)]
    return list(dict.fromkeys([*(str(Path(path).absolute()) for path in sys.path if path), *map(str, found)]))


class TemplateProcess:
    """Runs templates in a process that has bounds. It is started at the first use, again after it had to be ended, and
    ends with this object or with the program.

    Callers on several threads take turns. sources: texts of the templates by name.
    """

    def __init__(self, sources: Mapping[str, str]):
        self.sources = dict(sources)
        self._lock = Lock()
        self._children: list[_Child] = []
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

    def _ready(self) -> _Child:
        if self._children and self._children[0].is_usable:
            return self._children[0]
        _end_all(self._children)
        try:
            child = _Child()
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

    def _asked(self, child: _Child, message: dict) -> dict:
        try:
            reply = child.ask(message)
            if excess := reply.get("excess"):
                raise Excess(_EXCESSES[excess])
        except Excess:
            _end_all(self._children)
            raise
        for kind in ("failure", "refusal"):
            if kind in reply:
                raise Failure(reply[kind], is_refusal=kind == "refusal")
        return reply


_EXCESSES = {
    "memory": f"takes more than {MEMORY_BYTES >> 20} MiB of memory",
    "output": f"writes more than {OUTPUT_CHARS:,} characters",
}


def _end_all(children: list[_Child]) -> None:
    while children:
        children.pop().end()
