"""The HTTP application: the routes of several APIs over the engines."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from hyla.server import openapi, page
from hyla.server.guard.head_limit import HeadLimit
from hyla.server.guard.keys import KeyRing
from hyla.server.guard.limits import Limits
from hyla.server.guard.origins import Origins
from hyla.server.reading import errors
from hyla.server.routes import chat, completions, control, messages, models, responses, texts
from hyla.server.served import ServedModel, serve_model
from hyla.server.service import Service, client_of
from hyla.server.watch import observed
from hyla.server.watch.traces import Traces

ROUTERS = (
    models.router,
    completions.router,
    chat.router,
    responses.router,
    messages.router,
    texts.router,
    control.router,
)


def create_app(
    models: Sequence[ServedModel],
    *,
    limits: Limits | None = None,
    keys: KeyRing | None = None,
    cors_origins: Sequence[str] = (),
    allowed_hosts: Sequence[str] | None = None,
    traces: Traces | None = None,
) -> FastAPI:
    """The application. It runs the models' engines from its start-up to its shutdown.

    cors_origins: pages of these origins may use it from a browser; none by default, but its own.
    allowed_hosts: names, beside this machine's for itself, under which it may be asked; None: any.
    """
    service = Service(models, limits=limits or Limits(), keys=keys or KeyRing())

    @asynccontextmanager
    async def lifespan(app: FastAPI):
        for served in service.models.values():
            served.worker.start()
        yield
        # At once, since each may take its time to end.
        await asyncio.gather(*(asyncio.to_thread(served.worker.stop) for served in service.models.values()))

    app = FastAPI(title="Hyla", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    errors.install(app)
    for router in ROUTERS:
        app.include_router(router)
    workers = {name: served.worker for name, served in service.models.items()}
    observed.install(app, workers, check_key=client_of, traces=traces)
    page.install(app, list(workers))
    openapi.install(app)
    app.add_middleware(Origins, origins=cors_origins, hosts=allowed_hosts)
    app.add_middleware(HeadLimit, max_bytes=service.limits.max_header_bytes)
    if cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(cors_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
        )
    return app


def single_app(engine, *, model_name: str, api_key: str | None = None, **limits) -> FastAPI:
    """The application of one `Engine`, on a thread of this process. limits: fields of `Limits`."""
    bounds = Limits(**limits)
    keys = KeyRing([api_key] if api_key is not None else [])
    return create_app([serve_model(engine, model_name, limits=bounds)], limits=bounds, keys=keys)
