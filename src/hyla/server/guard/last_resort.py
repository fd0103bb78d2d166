"""What no handler of the application answers: every failure has the API's form, whatever failed."""

from __future__ import annotations

import asyncio
import logging

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hyla.server.reading.errors import HTTPFailure, answer_error

logger = logging.getLogger(__name__)


class LastResort:
    """ASGI middleware around everything else. The application's own handlers see nothing but an `Exception`: not a
    library's panic, nor that the server gives up an answer at its end."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_started = is_done = False

        async def noting(message: Message) -> None:
            nonlocal is_started, is_done
            is_started = True
            is_done = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        try:
            await self.app(scope, receive, noting)
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:
            if scope["type"] != "http" or (is_started and not is_done):
                raise  # the connection ends, which tells the client
            if not is_started:
                response = await answer_error(Request(scope), _failure(error))
                await response(scope, receive, send)


def _failure(error: BaseException) -> Exception:
    """The failure to tell; a fault of ours goes to the log here, where its traceback is."""
    if isinstance(error, asyncio.CancelledError):
        message = "the server is shutting down; ask another one"
        return HTTPFailure(503, message, kind="overloaded_error", code="overloaded", headers={"Retry-After": "5"})
    if isinstance(error, Exception):
        return error
    logger.error("a library panicked", exc_info=error)
    message = "the server failed; its log has the reason"
    return HTTPFailure(500, message, kind="server_error", code="library_failed")
