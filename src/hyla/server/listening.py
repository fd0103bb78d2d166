"""A listening server: the socket first, so that a port in use is one clear error before anything is loaded into it."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import time
from collections.abc import Callable
from typing import Any

import uvicorn
from fastapi import FastAPI

from hyla.errors import ConfigError
from hyla.server.guard.connections import TELL_SECONDS, bounded
from hyla.server.guard.last_resort import LastResort
from hyla.server.service import Service

logger = logging.getLogger(__name__)

OTHER_FILES = 128
"""File descriptors that are left for everything but connections."""
MOST_FILES = 1 << 16
"""What a server raises its limit of open files to, where it may."""


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


def raise_file_limit() -> None:
    """Let this process open as many files as it may, within reason: a connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def possible_connections(wanted: int) -> int:
    """How many connections this process can hold, at most `wanted`."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if soft == resource.RLIM_INFINITY else min(wanted, max(soft - OTHER_FILES, 16))
    if most < wanted:
        logger.warning("max_connections = %d, lowered to %d: this process may open %d files", wanted, most, soft)
    return most


class DrainingServer(uvicorn.Server):
    """Says when it is ready; after SIGTERM or SIGINT it takes nothing new and finishes what runs."""

    def __init__(self, app: FastAPI, on_started: Callable[[], None] | None = None):
        self.service: Service = app.state.service
        limits = self.service.limits
        limits = limits.model_copy(update={"max_connections": possible_connections(limits.max_connections)})
        config = uvicorn.Config(
            LastResort(app),
            log_level="warning",
            log_config=None,  # `watch.logs` sets it up
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
        self.failure: BaseException | None = None
        """Why `on_started` could not say that the server is ready; it ends then, as after SIGTERM."""
        self._told_at = float("-inf")
        """When, on the monotonic clock, the log said last that connections cannot be taken."""

    async def startup(self, sockets=None) -> None:
        asyncio.get_running_loop().set_exception_handler(self._take_loop_error)
        await super().startup(sockets)
        if self.started and self._on_started is not None:
            try:
                self._on_started()
            except (OSError, SystemExit) as error:  # consoles end a process whose output nobody reads
                self.failure = error
                self.should_exit = True

    def _take_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """One line for many connections that cannot be taken: the loop tells of each, thousands of times a second."""
        if "accept" not in context.get("message", ""):
            loop.default_exception_handler(context)
        elif time.monotonic() - self._told_at > TELL_SECONDS:
            self._told_at = time.monotonic()
            logger.error("cannot take connections: %s; trying again every second", context.get("exception"))

    def handle_exit(self, sig, frame) -> None:
        self.service.is_draining = True
        super().handle_exit(sig, frame)


def serve(
    app: FastAPI, *, host: str = "127.0.0.1", port: int = 8000, ready: Callable[[str], None] | None = None
) -> None:
    """Serve until interrupted.

    ready: called with the server's URL once it answers.
    Raises ConfigError when the port is in use, or when `ready` cannot write; the caller prints it and exits with 1.
    """
    raise_file_limit()
    with listen(host, port) as listener:
        name = f"[{host}]" if ":" in host else host
        url = f"http://{name}:{listener.getsockname()[1]}"
        server = DrainingServer(app, (lambda: ready(url)) if ready is not None else None)
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:
            return
        if server.failure is not None:
            reason = str(server.failure) if isinstance(server.failure, OSError) else "nobody reads it"
            raise ConfigError(
                f"cannot say on standard output that the server is ready: {reason}; send it to what can be written"
            ) from server.failure
