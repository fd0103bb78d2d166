"""Pages of other sites may not use the server from somebody's browser: neither by a request of theirs, nor by a name of
their own that leads here."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from hyla.server.reading.errors import HTTPFailure, answer_error

READING = ("GET", "HEAD", "OPTIONS")
"""Methods that start nothing. Browsers show no page what they answer to another site's."""


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine for itself.

    >>> [is_loopback(host) for host in ("127.0.0.1", "localhost", "::1", "127.1.2.3", "0.0.0.0", "example.com")]
    [True, True, True, True, False, False]
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() in ("localhost", "ip6-localhost")


class Origins:
    """ASGI middleware. Refuses with 403, before anything is read:

    - a request that changes or starts something, whose Origin (browsers send it) is neither the Host that it is sent to
      nor in `origins`;
    - with `hosts`, any request whose Host is neither this machine for itself nor in `hosts`: a foreign name that was
      made to lead to this machine (DNS rebinding).

    origins: as scheme://host[:port]; "*" for all. hosts: names without ports; None: any.
    """

    def __init__(self, app: ASGIApp, origins: Collection[str] = (), hosts: Collection[str] | None = None):
        self.app, self.origins = app, frozenset(origins)
        self.hosts = None if hosts is None else frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            request = Request(scope)
            failure = self._refusal(request)
            if failure is not None:
                response = await answer_error(request, failure)
                await response(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _refusal(self, request: Request) -> HTTPFailure | None:
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        name = _name(host)
        if self.hosts is not None and host and not is_loopback(name) and name not in self.hosts:
            return _forbidden(
                f"Host = {host[:200]!r} is not a name of this server, which serves its own machine; --allowed-host "
                f"{name[:200]} allows it"
            )
        if origin is None or request.method in READING or self.origins & {origin, "*"}:
            return None
        if (host and _netloc(origin).lower() == host.lower()) or self._is_allowed_page(origin):
            return None
        return _forbidden(f"a page of {origin[:200]!r} may not use this server; --cors-origin {origin[:200]} allows it")

    def _is_allowed_page(self, origin: str) -> bool:
        """Whether it is a page of an allowed host: a proxy may have put another Host in place of its own."""
        return _name(_netloc(origin)) in (self.hosts or ())


def _netloc(origin: str) -> str:
    """Host and port of an origin; "" of what is none."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _name(netloc: str) -> str:
    """A host without its port and brackets, in small letters."""
    if netloc.startswith("["):
        return netloc[1:].partition("]")[0].lower()
    return netloc.rpartition(":")[0].lower() if netloc.count(":") == 1 else netloc.lower()


def _forbidden(message: str) -> HTTPFailure:
    return HTTPFailure(403, message, kind="permission_error")
