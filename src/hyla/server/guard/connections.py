"""uvicorn's HTTP/1.1 connections with bounds: on their number, on slow clients, and on bodies that nobody reads."""

from __future__ import annotations

import asyncio
import json
import logging
import time

import h11
from uvicorn.protocols.http.flow_control import CLOSE_HEADER
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from hyla.server.guard.limits import Limits
from hyla.server.guard.strict_http import StrictConnection
from hyla.server.reading.errors import error_body

logger = logging.getLogger(__name__)

LINGER_SECONDS = 5.0
"""How long a client may still send what nobody reads, so that it sees its answer: closing at once would reset it."""
LINGER_BYTES = 16 << 20
"""How much of it at most."""
MOST_TURNED_AWAY = 64
"""Connections beyond the limit that get their 503 at a time; more are closed without a word."""
PIECE_BYTES = 1 << 14
"""What is parsed at a time, so that a head that is too large is not parsed whole."""
TELL_SECONDS = 10.0
"""Time between two log lines that say that connections were turned away."""


class LingeringTransport:
    """A connection's transport that closes in two steps while the client still sends: its end first, and the whole when
    the client has seen that, or `LINGER_SECONDS` later. `is_sending`: asked at the close."""

    def __init__(self, transport, loop: asyncio.AbstractEventLoop, is_sending):
        self._transport, self._loop, self._is_sending = transport, loop, is_sending
        self._timer: asyncio.TimerHandle | None = None

    def __getattr__(self, name: str):
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self._timer is not None or self._transport.is_closing()

    def write(self, data: bytes) -> None:
        if not self.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        if self.is_closing():
            return
        if not self._is_sending():
            self._transport.close()
            return
        # What is left to write may find no reader either, so that only `abort` surely ends it.
        self._timer = self._loop.call_later(LINGER_SECONDS, self._transport.abort)
        try:
            self._transport.write_eof()
        except OSError:  # the client is gone
            self._transport.abort()
            return
        self._transport.resume_reading()

    def pause_reading(self) -> None:
        if self._timer is None:
            self._transport.pause_reading()

    def forget(self) -> None:
        """The connection is gone."""
        if self._timer is not None:
            self._timer.cancel()


class BoundedConnection(H11Protocol):
    """Closes a connection whose headers take too long, one whose client takes no data for too long, and one whose
    answer is made before its body has come. Turns new ones away when there are too many."""

    limits: Limits
    """Set by `bounded`."""
    _headers_timer: asyncio.TimerHandle | None = None
    _reader_timer: asyncio.TimerHandle | None = None
    _unread_bytes = 0
    _is_turned_away = False
    _turned_away: set[BoundedConnection]
    """All of this class that are still open."""
    _told_at = float("-inf")
    """When, on the monotonic clock, the log said last that connections are turned away; of the whole class."""

    def __init__(self, *given, **more):
        super().__init__(*given, **more)
        self.conn = StrictConnection(h11.SERVER, self.limits.max_header_bytes)
        self.app = self._with_close(self.app)

    def _with_close(self, app):
        """The application, whose answers say when the connection ends with them."""

        async def answer(scope, receive, send):
            cycle = self.cycle

            async def send_or_close(message):
                if message["type"] == "http.response.start" and cycle.more_body:
                    headers = [pair for pair in message.get("headers", ()) if pair[0].lower() != b"connection"]
                    message = {**message, "headers": [*headers, CLOSE_HEADER]}
                await send(message)

            await app(scope, receive, send_or_close)

        return answer

    def connection_made(self, transport):
        super().connection_made(LingeringTransport(transport, self.loop, self._is_sending))  # type: ignore[arg-type]
        if len(self.connections) > self.limits.max_connections:
            self._turn_away()
        else:
            self._watch_headers()

    def _is_sending(self) -> bool:
        """Whether the client may have more to send than was read."""
        return self._is_turned_away or self.conn.their_state in (h11.SEND_BODY, h11.ERROR)

    def _turn_away(self) -> None:
        kind, now = type(self), time.monotonic()
        if now - kind._told_at > TELL_SECONDS:
            kind._told_at = now
            logger.warning(
                "%d connections are open, which is the limit (max_connections); more are answered with 503",
                self.limits.max_connections,
            )
        self.connections.discard(self)
        if len(self._turned_away) >= MOST_TURNED_AWAY:
            self.transport.close()
            return
        self._is_turned_away = True
        self._turned_away.add(self)
        message = f"{self.limits.max_connections} connections are open, which is the limit; try again later"
        self.transport.write(_plain_answer(503, message, kind="overloaded_error", code="overloaded", retry=True))
        self.transport.close()

    def data_received(self, data):
        if self.transport.is_closing():
            self._unread_bytes += len(data)
            if self._unread_bytes > LINGER_BYTES:
                self.transport.abort()
            return
        for start in range(0, len(data), PIECE_BYTES):
            super().data_received(data[start : start + PIECE_BYTES])
            if self.transport.is_closing():
                return
        self._watch_headers()

    def eof_received(self):
        if self.transport.is_closing():
            self.transport.abort()  # it has seen the end of ours, and its answer before that
        return super().eof_received()

    def send_400_response(self, msg: str) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            # Its body is broken: nobody is to wait for the rest of it, nor to answer.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if self.cycle.response_started:
                self.transport.close()
                return
        status, reason = self.conn.mistake or (400, msg)
        message = f"this is not HTTP/1.1 as it is spoken here: {reason}; see RFC 9112"
        self.transport.write(_plain_answer(status, message))
        self.transport.close()

    def shutdown(self) -> None:
        if not self.transport.is_closing():  # h11 has no last word for what was refused
            super().shutdown()

    def _watch_headers(self) -> None:
        """The timer runs while the head of a request is incomplete."""
        waits = self.conn.their_state is h11.IDLE
        if waits and self._headers_timer is None:
            self._headers_timer = self.loop.call_later(self.limits.header_seconds, self._headers_are_late)
        elif not waits and self._headers_timer is not None:
            self._headers_timer.cancel()
            self._headers_timer = None

    def _headers_are_late(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()

    def pause_writing(self):
        super().pause_writing()
        if self._reader_timer is None:
            # Closing would wait for the client to take what is left.
            self._reader_timer = self.loop.call_later(self.limits.read_seconds, self.transport.abort)

    def resume_writing(self):
        super().resume_writing()
        self._stop(self._reader_timer)
        self._reader_timer = None

    def connection_lost(self, exc):
        self._stop(self._headers_timer)
        self._stop(self._reader_timer)
        self._turned_away.discard(self)
        self.transport.forget()  # type: ignore[attr-defined]
        super().connection_lost(exc)

    @staticmethod
    def _stop(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()


def _plain_answer(
    status: int, message: str, *, kind: str = "invalid_request_error", code: str | None = None, retry: bool = False
) -> bytes:
    """A whole answer, for a connection that gets no other: there may be no request that h11 could answer."""
    body = json.dumps(error_body(message, kind=kind, code=code)).encode()
    lines = [
        b"HTTP/1.1 %d %s" % (status, STATUS_PHRASES.get(status, b"")),
        b"content-type: application/json",
        b"content-length: %d" % len(body),
        b"connection: close",
        *([b"retry-after: 5"] if retry else []),
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def bounded(limits: Limits) -> type[BoundedConnection]:
    """The connection class of a server with these limits: uvicorn makes the connections itself."""
    return type("BoundedConnection", (BoundedConnection,), {"limits": limits, "_turned_away": set()})
