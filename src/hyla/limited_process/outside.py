"""A process that does limited work, seen from outside: started, asked, and ended past its time."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from hyla.limited_process.line import pack, receive

BOOT = "import sys; sys.path[:] = sys.argv[2:]; import importlib; importlib.import_module(sys.argv[1]).main()"
KEPT_VARIABLES = ("LD_LIBRARY_PATH", "PATH", "SYSTEMROOT", "TZ")
"""The environment that it gets: no keys, no tokens."""
END_SECONDS = 1.0
"""How long a process that has left the line may take to be gone, at least."""


class TooLong(Exception):
    """No answer came in time."""


class Ended(Exception):
    """It ended before it answered. code: its exit code, minus the number of the signal that ended it; None: unknown."""

    def __init__(self, code: int | None):
        super().__init__(f"ended its process (exit code {code})")
        self.code = code


class LimitedProcess:
    """One life of a process, and our end of the line to it. It loads nothing but what its module imports, has no
    start-up files, and ends with this one. Ctrl-C is not meant for it.

    module: its `main()` takes messages from standard input and answers on standard output (`inside`).
    finds: modules of other packages that it imports.
    variables: its whole environment; else KEPT_VARIABLES of ours.
    Raises OSError where it cannot be started.
    """

    def __init__(self, module: str, *, finds: Iterable[ModuleType] = (), variables: Mapping[str, str] | None = None):
        self.owner = os.getpid()
        ours, theirs = socket.socketpair()
        try:
            self.process = subprocess.Popen(
                # With an environment of our choice -P -s is -I, and what we set for Python in it counts.
                [sys.executable, "-P", "-s", "-S", "-c", BOOT, module, *_search_path(finds)],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
                env=kept_variables(KEPT_VARIABLES) if variables is None else dict(variables),
                start_new_session=True,
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

    def ask(self, message: Any, *, seconds: float, most_bytes: int | None = None) -> Any:
        """Send a message and wait for the answer, at most so long. most_bytes: of the answer.

        Raises TooLong or Ended when there comes none, and this life is over; TypeError or ValueError for no JSON.
        """
        end = time.monotonic() + seconds

        def read(size: int) -> bytes:
            self._wait_until(end)
            return self.line.recv(size)

        data, reply = pack(message), None
        try:
            self._wait_until(end)
            self.line.sendall(data)
            reply = receive(read, most_bytes=most_bytes)
        except TimeoutError as error:
            self.end()
            raise TooLong from error
        except (OSError, ValueError):  # it ended before it had read all, or has lost its mind
            pass
        if reply is None:
            code = self._exit_code(max(end - time.monotonic(), END_SECONDS))
            self.end()
            raise Ended(code)
        return reply

    def _wait_until(self, end: float) -> None:
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.line.settimeout(left)

    def _exit_code(self, seconds: float) -> int | None:
        self.line.close()  # one that still waits for a message sees the end of them
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def end(self) -> None:
        """Kill it with all that it started, and forget it."""
        self.line.close()
        if self.owner == os.getpid():
            if self.process.returncode is None:  # until somebody has asked, its number is no other process's
                _kill(self.process)
            self.process.wait()


def kept_variables(names: Iterable[str]) -> dict[str, str]:
    """Those of our environment variables that have these names."""
    return {name: os.environ[name] for name in names if name in os.environ}


def _kill(process: subprocess.Popen) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (AttributeError, OSError):  # a system without groups, or one that is gone
        process.kill()


def _search_path(finds: Iterable[ModuleType]) -> list[str]:
    """Where this process found its modules: the other one has the same, without running any start-up file."""
    roots = [Path(__file__).absolute().parents[2]]
    roots += [Path(module.__file__ or "").absolute().parents[1] for module in finds]
    return list(dict.fromkeys([*(str(Path(path).absolute()) for path in sys.path if path), *map(str, roots)]))
