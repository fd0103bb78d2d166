"""Logs for people, or one JSON object a line for machines; every request with its id."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal, TextIO

from hyla.terminal_text import escaped

LogFormat = Literal["text", "json"]

FIELDS = "hyla_fields"
"""Attribute of a record with fields of its own: `logger.info(..., extra={FIELDS: {...}})`."""

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
    """A line for people; a message is always one line that commands no terminal, whatever a client or a file said."""

    def __init__(self):
        super().__init__(TEXT_FORMAT)

    def formatMessage(self, record: logging.LogRecord) -> str:
        return escaped(super().formatMessage(record), keep="\t")

    def formatException(self, ei) -> str:
        return escaped(super().formatException(ei))


def configure(form: LogFormat = "text", *, level: str = "info", stream: TextIO | None = None) -> logging.Handler:
    """Send Hyla's and the HTTP server's logs to standard error in one format. Returns the handler that does it.

    Calling it again replaces what an earlier call set up.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    for name in ("hyla", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(level.upper())
    return handler
