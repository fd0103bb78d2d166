"""What is served, and whether it is well."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse

from hyla.server.served import ServedModel
from hyla.server.service import client_of, service_of
from hyla.server.watch.aside import aside

router = APIRouter()


@router.get("/health")
async def health(request: Request) -> JSONResponse:
    """The process answers; how its models are doing."""
    service = service_of(request)
    models = {name: await aside(_health, served) for name, served in service.models.items()}
    first = next(iter(service.models))
    status = "draining" if service.is_draining else "ok"
    return JSONResponse({"status": status, "model": first, **models[first], "models": models})


def _health(served: ServedModel) -> dict:
    status, facts = served.worker.status(), served.worker.facts
    return {
        "requests": status["unfinished_requests"],
        "state": status["state"],
        "cache": status["ledger"],
        "cache_bytes": status["cache_bytes"],
        "device": facts.device,
        "arithmetic": facts.arithmetic,
        "numerics": facts.numerics,
        "cpu_backend": facts.cpu_backend,
        "native_build": facts.native_build,
        "threads": facts.threads,
        "backends": facts.backends,
        "notes": list(facts.notes),
        "parsers": served.format.names(),
    }


@router.get("/ready")
async def ready(request: Request) -> JSONResponse:
    """200 while new requests are taken; 503 while the server ends or one of its models has no engine."""
    service = service_of(request)
    alive = all(served.worker.is_alive for served in service.models.values())
    is_ready = alive and not service.is_draining
    body = {"status": "ready" if is_ready else "not ready"}
    return JSONResponse(body, status_code=200 if is_ready else 503, headers=None if is_ready else {"Retry-After": "5"})


@router.get("/v1/models", dependencies=[Depends(client_of)])
async def models(request: Request) -> JSONResponse:
    data = [served.body() for served in service_of(request).models.values()]
    pages = {"has_more": False, "first_id": data[0]["id"], "last_id": data[-1]["id"]}
    return JSONResponse({"object": "list", "data": data, **pages})


@router.get("/v1/models/{name:path}", dependencies=[Depends(client_of)])
async def model(request: Request, name: str) -> JSONResponse:
    return JSONResponse(service_of(request).model(name).body())
