"""Trials of grammars where a crash, or work without an end, costs nothing."""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from hyla.engine.sampling import trial_process
from hyla.engine.sampling.trial_process import read, write

logger = logging.getLogger(__name__)

SECONDS = 0.5
"""Time of a processor that compiling a grammar may take."""
SILENCE_SECONDS = 30.0
"""A process that does not answer for so long is ended: its time of a processor would be over long since."""
MOST_KEPT = 1024
"""Verdicts that are remembered."""


@dataclass(frozen=True)
class Verdict:
    """How a trial ended."""

    problem: str = ""
    """Why the grammar cannot be used, "" when it can."""
    seconds: float = 0.0
    """Time of a processor that it took."""


class Trials:
    """Tries grammars for one tokenizer, on any thread, one at a time. The process starts with the first one, and again
    after it has died.

    tokenizer: as text of the tokenizers library. end: the id that stands for the end of a text.
    """

    def __init__(self, tokenizer: str, end: int, limits: Mapping[str, int], *, seconds: float = SECONDS):
        self._vocabulary = {"tokenizer": tokenizer, "end": [end]}
        self._limits, self._seconds = dict(limits), seconds
        self._process: subprocess.Popen | None = None
        self._kept: OrderedDict[bytes, Verdict] = OrderedDict()
        self._lock = threading.Lock()

    def verdict(self, source: str) -> Verdict:
        """source: a grammar in llguidance's form."""
        key = hashlib.sha256(source.encode("utf-8", "surrogatepass")).digest()
        with self._lock:
            found = self._kept.pop(key, None) or self._tried(source)
            if found is None:
                return Verdict("it could not be tried; send it again")
            self._kept[key] = found
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
            return found

    def _tried(self, source: str) -> Verdict | None:
        """None when no process tells anything."""
        asked = {"source": source, "seconds": self._seconds, "limits": self._limits}
        told = self._asked(asked) or self._asked(asked)  # it may have died since
        if told is None:
            logger.error("the process that tries grammars does not answer")
            return None
        if told["signal"] not in (0, signal.SIGPROF):
            logger.warning("a grammar ended the process that tried it; it is refused")
            return Verdict("it breaks the compiler of grammars; simplify it")
        if told["signal"]:
            return Verdict(f"compiling it takes more than {self._seconds} s of work; simplify it", told["seconds"])
        return Verdict(told["said"], told["seconds"])

    def _asked(self, asked: dict) -> dict | None:
        """What the process tells; None when it has died."""
        if self._process is None or self._process.poll() is not None:
            self._process = _started(self._vocabulary)
            weakref.finalize(self, _end, self._process)
        told = _exchanged(self._process, asked)
        if told is None:
            _end(self._process)
            self._process = None
        return told


def _started(vocabulary: dict) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-m", trial_process.__name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        start_new_session=True,  # Ctrl-C is meant for the server
    )
    _exchanged(process, vocabulary)
    return process


def _exchanged(process: subprocess.Popen, message: dict):
    """The answer to a message; None from a process that has died, or says nothing and so is ended."""
    if process.stdin is None or process.stdout is None:
        return None
    limit = threading.Timer(SILENCE_SECONDS, _kill, [process])
    limit.daemon = True
    limit.start()
    try:
        write(process.stdin, message)
        return read(process.stdout)
    except (OSError, ValueError):
        return None
    finally:
        limit.cancel()


def _kill(process: subprocess.Popen) -> None:
    """End a process with its trials."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except OSError:
        process.kill()


def _end(process: subprocess.Popen) -> None:
    if process.poll() is None:
        _kill(process)
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
