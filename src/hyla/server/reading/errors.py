"""Every failure in the shape that the route's clients read: OpenAI's, or Anthropic's on its routes."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from hyla.engine.requests.overload import Overloaded
from hyla.errors import CapacityError, HylaError, RequestError

logger = logging.getLogger(__name__)

ANTHROPIC_PATH = "/v1/messages"

LONGEST_MESSAGE = 4000
"""Characters of an error's text, which may repeat what the client sent."""

ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
"""Anthropic's error types by HTTP status; other client errors are invalid requests, other server errors api_error."""


class HTTPFailure(HylaError):
    """A failure with its own HTTP status."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.kind, self.param, self.code, self.headers = status, kind, param, code, headers


def error_body(message: str, *, kind: str, param: str | None = None, code: str | None = None) -> dict:
    """The JSON body of a failure as OpenAI's clients read it."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def anthropic_error_body(status: int, message: str) -> dict:
    """The JSON body of a failure as Anthropic's clients read it."""
    other = "invalid_request_error" if status < 500 else "api_error"
    return {"type": "error", "error": {"type": ANTHROPIC_TYPES.get(status, other), "message": message}}


def as_failure(error: Exception) -> HTTPFailure:
    """The failure that an exception is to a client."""
    if isinstance(error, HTTPFailure):
        return error
    if isinstance(error, RequestError):
        return HTTPFailure(400, str(error), param=error.param, code=error.code)
    if isinstance(error, Overloaded):
        retry = {"Retry-After": str(error.retry_after_seconds)}
        return HTTPFailure(503, str(error), kind="overloaded_error", code="overloaded", headers=retry)
    if isinstance(error, CapacityError):
        return HTTPFailure(400, str(error), code="capacity_exceeded")
    if isinstance(error, HTTPException):
        headers = dict(error.headers) if error.headers else None
        return HTTPFailure(error.status_code, str(error.detail), headers=headers)
    return HTTPFailure(500, "the server failed; its log has the reason", kind="server_error")


def is_anthropic(path: str) -> bool:
    return path == ANTHROPIC_PATH or path.startswith(ANTHROPIC_PATH + "/")


async def answer_error(request: Request, error: Exception) -> JSONResponse:
    """Any exception as a response."""
    failure = as_failure(error)
    path = request.url.path
    message = _no_route(request, error) if isinstance(error, HTTPException) else str(failure)
    if len(message) > LONGEST_MESSAGE:
        message = f"{message[: LONGEST_MESSAGE // 2]} ... {message[-LONGEST_MESSAGE // 2 :]}"
    if failure.status >= 500 and failure.code is None:
        logger.error("%s %s failed", request.method, path, exc_info=error)
    if is_anthropic(path):
        body = anthropic_error_body(failure.status, message)
    else:
        body = error_body(message, kind=failure.kind, param=failure.param, code=failure.code)
    return JSONResponse(body, status_code=failure.status, headers=failure.headers)


def _no_route(request: Request, error: HTTPException) -> str:
    """What a client that asked for the wrong path, or in the wrong way, should know."""
    path, method = request.url.path, request.method
    if error.status_code == 405 and error.headers:
        return f"{path} takes {error.headers.get('Allow', 'another method')} and not {method}"
    if error.status_code == 404 and error.detail == "Not Found":
        known = request.app.openapi()["paths"]
        meant = next(
            (other for other in (f"/v1{path}", path.removeprefix("/v1")) if other != path and other in known), None
        )
        hint = f"did you mean {meant}?" if meant else "GET /openapi.json lists what there is"
        return f"{method} {path} is no route of this server; {hint}"
    return f"{method} {path}: {error.detail}"


def install(app: FastAPI) -> None:
    """Answer every exception in the one shape."""
    for kind in (HylaError, HTTPException, Exception):
        app.add_exception_handler(kind, answer_error)
