"""A listening server: the socket first, so that a port in use is one clear error before anything is loaded into it."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from hyla.errors import ConfigError
from hyla.server.guard.connections import bounded
from hyla.server.service import Service


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes any free one. Raises ConfigError when the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With its protocol named, or asyncio leaves small writes waiting for acknowledgements (no TCP_NODELAY): 40 ms each.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error}; stop the program that uses it or choose another --port"
        ) from error
    return listener


class DrainingServer(uvicorn.Server):
    """Says when it is ready; after SIGTERM or SIGINT it takes nothing new and finishes what runs."""

    def __init__(self, app: FastAPI, on_started: Callable[[], None] | None = None):
        self.service: Service = app.state.service
        limits = self.service.limits
        config = uvicorn.Config(
            app,
            log_level="warning",
            http=bounded(limits),
            h11_max_incomplete_event_size=limits.max_header_bytes,
            timeout_keep_alive=max(1, round(limits.idle_seconds)),
            timeout_graceful_shutdown=max(1, round(limits.drain_seconds)),
            server_header=False,
            # Nothing here depends on a client's address, and no variable of the environment should.
            proxy_headers=False,
            ws="none",
        )
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets=None) -> None:
        await super().startup(sockets)
        if self.started and self._on_started is not None:
            self._on_started()

    def handle_exit(self, sig, frame) -> None:
        self.service.is_draining = True
        super().handle_exit(sig, frame)


def serve(
    app: FastAPI, *, host: str = "127.0.0.1", port: int = 8000, ready: Callable[[str], None] | None = None
) -> None:
    """Serve until interrupted.

    ready: called with the server's URL once it answers.
    Raises ConfigError when the port is in use; the caller prints it and exits with 1.
    """
    with listen(host, port) as listener:
        name = f"[{host}]" if ":" in host else host
        url = f"http://{name}:{listener.getsockname()[1]}"
        server = DrainingServer(app, (lambda: ready(url)) if ready is not None else None)
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:
            return
