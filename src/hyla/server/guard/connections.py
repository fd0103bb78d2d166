"""uvicorn's HTTP/1.1 connections with bounds on slow clients."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from hyla.server.guard.limits import Limits


class BoundedConnection(H11Protocol):
    """Closes a connection whose headers take too long, and one whose client takes no data for too long."""

    limits: Limits
    """Set by `bounded`."""
    _headers_timer: asyncio.TimerHandle | None = None
    _reader_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport):
        super().connection_made(transport)
        self._watch_headers()

    def data_received(self, data):
        super().data_received(data)
        self._watch_headers()

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
        super().connection_lost(exc)

    @staticmethod
    def _stop(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()


def bounded(limits: Limits) -> type[BoundedConnection]:
    """The connection class of a server with these limits: uvicorn makes the connections itself."""
    return type("BoundedConnection", (BoundedConnection,), {"limits": limits})
