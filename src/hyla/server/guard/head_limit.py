"""Requests whose line and headers are too large, refused before anything reads them."""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from hyla.server.reading.errors import HTTPFailure, answer_error


class HeadLimit:
    """ASGI middleware. max_bytes: path, query and headers together. The connection itself bounds what is unfinished."""

    def __init__(self, app: ASGIApp, max_bytes: int):
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            size = len(scope["raw_path"]) + len(scope["query_string"])
            size += sum(len(name) + len(value) for name, value in scope["headers"])
            if size > self.max_bytes:
                failure = HTTPFailure(431, f"the head of the request is larger than {self.max_bytes} bytes; send less")
                response = await answer_error(Request(scope), failure)
                await response(scope, receive, send)
                return
        await self.app(scope, receive, send)
