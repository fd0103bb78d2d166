"""Every failure in the shape that OpenAI's clients read: {"error": {message, type, param, code}}."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from hyla.engine import Overloaded
from hyla.errors import CapacityError, HylaError, RequestError

logger = logging.getLogger(__name__)


class HTTPFailure(HylaError):
    """A failure with its own HTTP status."""

    def __init__(self, status: int, message: str, *, kind: str, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.kind, self.param, self.code = status, kind, param, code


def error_body(message: str, *, kind: str, param: str | None = None, code: str | None = None) -> dict:
    """The JSON body of a failure."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _respond(status: int, message: str, headers: dict[str, str] | None = None, **fields) -> JSONResponse:
    return JSONResponse(error_body(message, **fields), status_code=status, headers=headers)


async def _failure(request: Request, error: HTTPFailure) -> JSONResponse:
    headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else None
    return _respond(error.status, str(error), headers, kind=error.kind, param=error.param, code=error.code)


async def _bad_request(request: Request, error: RequestError) -> JSONResponse:
    return _respond(400, str(error), kind="invalid_request_error", param=error.param)


async def _too_large(request: Request, error: CapacityError) -> JSONResponse:
    return _respond(400, str(error), kind="invalid_request_error", code="capacity_exceeded")


async def _overloaded(request: Request, error: Overloaded) -> JSONResponse:
    return _respond(
        503, str(error), {"Retry-After": str(error.retry_after_seconds)}, kind="overloaded_error", code="overloaded"
    )


async def _http(request: Request, error: HTTPException) -> JSONResponse:
    message = f"{request.method} {request.url.path}: {error.detail}"
    headers = dict(error.headers) if error.headers else None
    return _respond(error.status_code, message, headers, kind="invalid_request_error")


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _respond(500, "the server failed; its log has the reason", kind="server_error")


def install(app: FastAPI) -> None:
    """Answer every exception in the one shape."""
    app.add_exception_handler(HTTPFailure, _failure)
    app.add_exception_handler(RequestError, _bad_request)
    app.add_exception_handler(Overloaded, _overloaded)
    app.add_exception_handler(CapacityError, _too_large)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)
