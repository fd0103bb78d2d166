"""The page at `/`: plain files, sent with a content security policy under which nothing but these files can run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from importlib.resources import files

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response
from starlette.exceptions import HTTPException

TYPES = {
    "index.html": "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "theme.js": "text/javascript; charset=utf-8",
    "dom.js": "text/javascript; charset=utf-8",
    "markdown.js": "text/javascript; charset=utf-8",
    "blocks.js": "text/javascript; charset=utf-8",
    "inline.js": "text/javascript; charset=utf-8",
    "stream.js": "text/javascript; charset=utf-8",
    "numbers.js": "text/javascript; charset=utf-8",
    "models.js": "text/javascript; charset=utf-8",
    "writing.js": "text/javascript; charset=utf-8",
    "conversation.js": "text/javascript; charset=utf-8",
    "settings.js": "text/javascript; charset=utf-8",
    "engine.js": "text/javascript; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
}
"""Everything that is sent, and as what. A name that is not here is no file."""

SECURITY = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
"""Model output cannot become a script even if the page had a mistake: nothing inline runs, nothing foreign loads, and
no text can be turned into HTML."""


def install(app: FastAPI, models: Sequence[str]) -> None:
    """Serve the page at `/` and its files under `/page/`. models: names, for clients that are no browsers."""
    text = (
        f"Hyla serves {', '.join(models)}. Open this address in a browser to talk to it, or use any OpenAI client at "
        "{this address}/v1:\n\n"
        "  POST /v1/chat/completions\n  POST /v1/completions\n  GET  /v1/models\n"
        "  GET  /health\n  GET  /metrics\n  GET  /engine/status\n"
    )

    @app.get("/")
    async def home(request: Request) -> Response:
        """The page for browsers, a few lines for everyone else."""
        if "text/html" not in request.headers.get("accept", ""):
            return PlainTextResponse(text, headers={"Vary": "Accept"})
        return respond(request, "index.html", {"Vary": "Accept"})

    @app.get("/page/{name}")
    async def file(request: Request, name: str) -> Response:
        if name not in TYPES:
            raise HTTPException(404, "the page has no such file")
        return respond(request, name, {})


def respond(request: Request, name: str, headers: dict[str, str]) -> Response:
    """A file of the page; 304 for who has it already. It is checked anew each time: an update shows at once."""
    body, tag = read(name)
    headers = {**SECURITY, **headers, "ETag": tag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(body, headers={**headers, "Content-Type": TYPES[name]})


@cache
def read(name: str) -> tuple[bytes, str]:
    """(content, entity tag) of a file."""
    body = files(__name__).joinpath(name).read_bytes()
    return body, f'"{sha256(body).hexdigest()[:32]}"'
