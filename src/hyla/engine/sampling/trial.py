"""Trials of grammars where a crash, or work without an end, costs nothing."""

from __future__ import annotations

import hashlib
import logging
import signal
import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from hyla.limited_process.outside import Ended, LimitedProcess, TooLong

logger = logging.getLogger(__name__)

SECONDS = 0.5
"""Time of a processor that compiling a grammar may take."""
SILENCE_SECONDS = 30.0
"""A process that does not answer for so long is ended: its time of a processor would be over long since."""
MOST_KEPT = 1024
"""Verdicts that are remembered."""
WORKER = "hyla.engine.sampling.trial_process"


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
        self._process: LimitedProcess | None = None
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
        """What the process tells; None when it has died, or says nothing and so is ended."""
        try:
            return self._ready().ask(asked, seconds=SILENCE_SECONDS)
        except (TooLong, Ended):
            return None

    def _ready(self) -> LimitedProcess:
        import llguidance

        if self._process is not None and self._process.is_usable:
            return self._process
        if self._process is not None:
            self._process.end()
        self._process = LimitedProcess(WORKER, finds=[llguidance])
        weakref.finalize(self, self._process.end)
        self._process.ask(self._vocabulary, seconds=SILENCE_SECONDS)
        return self._process
