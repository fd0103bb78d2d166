"""A listening server: the socket first, so that a port in use is one clear error before anything is loaded into it."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from hyla.errors import ConfigError


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes any free one. Raises ConfigError when the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
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


class _Server(uvicorn.Server):
    """Says when it is ready."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]):
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets=None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_started()


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
        limits = app.state.service.limits
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=int(limits.drain_seconds) or 1)
        server = _Server(config, lambda: ready(url) if ready is not None else None)
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:
            return
