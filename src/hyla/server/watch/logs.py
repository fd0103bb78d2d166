"""Logs for people, or one JSON object a line for machines; every request with its id."""

from __future__ import annotations

import json
import logging
import os
import select
import sys
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Literal, TextIO

from hyla.terminal_text import escaped

LogFormat = Literal["text", "json"]

FIELDS = "hyla_fields"
"""Attribute of a record with fields of its own: `logger.info(..., extra={FIELDS: {...}})`."""

MOST_WAITING_BYTES = 1 << 20

TEXT_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: time (UTC, ISO 8601), level, logger, message, its own fields, and the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        body = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        # A field cannot pass itself off as the time or the level.
        body = {**vars(record).get(FIELDS, {}), **body}
        if record.exc_info:
            body["traceback"] = self.formatException(record.exc_info)
        return json.dumps(body, default=str)


class TextFormatter(logging.Formatter):
    """A line for people; a message is always one line, and no terminal does anything but show it, whatever a client
    sent. The lines of a traceback are set in, so that none can look like another message."""

    def __init__(self):
        super().__init__(TEXT_FORMAT)

    def formatMessage(self, record: logging.LogRecord) -> str:
        return escaped(super().formatMessage(record), keep="\t")

    def format(self, record: logging.LogRecord) -> str:
        message, *traceback = super().format(record).split("\n")
        return "\n  ".join([message, *map(escaped, traceback)])


class PatientHandler(logging.Handler):
    """Writes to a file descriptor and never waits for whoever reads there: what cannot be written now is kept, up to
    MOST_WAITING_BYTES, and then left out and counted. A server must not stop because nobody reads its log."""

    def __init__(self, descriptor: int):
        super().__init__()
        self._descriptor = descriptor
        self._waiting = bytearray()
        self._num_lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = (self.format(record) + "\n").encode(errors="backslashreplace")
        except Exception:
            self.handleError(record)
            return
        self._write()
        if self._num_lost and not self._waiting:
            self._waiting += b"%d lines of the log could not be written in time and are left out\n" % self._num_lost
            self._num_lost = 0
        if len(self._waiting) + len(line) > MOST_WAITING_BYTES:
            self._num_lost += 1
            return
        self._waiting += line
        self._write()

    def _write(self) -> None:
        """As much as is taken now."""
        place = select.poll()
        place.register(self._descriptor, select.POLLOUT)
        while self._waiting and place.poll(0):
            try:
                del self._waiting[: os.write(self._descriptor, self._waiting[: select.PIPE_BUF])]
            except OSError:  # nobody will read it, or there is no room: not a reason to end
                self._waiting.clear()

    def flush(self) -> None:
        with self.lock or nullcontext():
            self._write()


def _handler(stream: TextIO | None) -> logging.Handler:
    if stream is None:  # standard error is closed
        return logging.NullHandler()
    try:
        return PatientHandler(stream.fileno())
    except (AttributeError, OSError, ValueError):  # an object of Python's: a notebook's, or in memory
        return logging.StreamHandler(stream)


def configure(form: LogFormat = "text", *, level: str = "info", stream: TextIO | None = None) -> logging.Handler:
    """Send Hyla's and the HTTP server's logs to standard error in one format. Returns the handler that does it.

    Calling it again replaces what an earlier call set up.
    """
    handler = _handler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    for name in ("hyla", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(level.upper())
    return handler
