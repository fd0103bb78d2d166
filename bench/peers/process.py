"""An engine in a process of its own: asked in JSON lines, stopped while it rests, ended when it fails."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.machine import ROOT

LAST_WORDS = 400
"""Characters of a dead process's standard error that its reason shows."""
QUIET_SECONDS = 0.05
"""Between waking an engine and asking it: the threads of the one before have been stopped, those of this one wake."""


class PeerError(Exception):
    """Why an engine gives no number; what a table's row says in its place."""


class Peer:
    """A worker (bench/peers/worker.py), running in a session of its own, so that all its processes stop together.

    command: what is run from the repository's root. patience: seconds until an answer is given up.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        patience: float = 600.0,
    ):
        self.log, self.patience = log, patience
        self._failure: PeerError | None = None
        try:
            with log.open("w") as written:
                self.process = subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env=os.environ | dict(environment or {}),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=written,
                    start_new_session=True,
                )
        except OSError as error:
            raise PeerError(f"does not start: {error}") from error
        self._received = b""

    def ask(self, verb: str, **arguments):
        """What the worker's verb returns. Raises PeerError where it refuses, dies, hangs or answers nonsense; after
        anything but a refusal the process is gone, and every later question has the same reason."""
        if self._failure is not None:
            raise self._failure
        line = json.dumps({"verb": verb, **arguments}).encode() + b"\n"
        try:
            self.process.stdin.write(line)
            self.process.stdin.flush()
        except (OSError, ValueError):
            raise self._lost(f"ended with {self._status()}") from None
        received = self._line(time.monotonic() + self.patience, verb)
        try:
            answer = json.loads(received)
            if "error" in answer:
                raise PeerError(str(answer["error"]))
            return answer["result"]
        except (ValueError, KeyError, TypeError):
            raise self._lost(f"answered {received[:80]!r} to {verb}") from None

    def _line(self, deadline: float, verb: str) -> bytes:
        descriptor = self.process.stdout.fileno()
        while b"\n" not in self._received:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise self._lost(f"gave no answer to {verb} in {self.patience:.0f} s")
            piece = os.read(descriptor, 1 << 16)
            if not piece:
                raise self._lost(f"ended with {self._status()}")
            self._received += piece
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _status(self) -> int | None:
        """The exit status of a process that closed its end, once it has one."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(timeout=5)
        return None

    def _lost(self, reason: str) -> PeerError:
        self.close()
        words = self.log.read_text(errors="replace").strip()[-LAST_WORDS:]
        last = words.splitlines()[-1] if words else ""
        self._failure = PeerError(f"{reason}: {last}" if last else reason)
        return self._failure

    def rest(self) -> None:
        """Stop every thread where it is; engines spin between their calls, and would take a core from the next one."""
        self._signal(signal.SIGSTOP)

    def wake(self) -> None:
        self._signal(signal.SIGCONT)
        time.sleep(QUIET_SECONDS)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def close(self) -> None:
        """End it, resting or not. Calling it again does nothing."""
        self._signal(signal.SIGKILL)
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()
        self.process.wait()
