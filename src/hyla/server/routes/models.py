"""What is served, and whether it is well."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse

from hyla.ops import native
from hyla.server.served import ServedModel
from hyla.server.service import client_of, service_of

router = APIRouter()


@router.get("/health")
async def health(request: Request) -> JSONResponse:
    """The process answers; how its models are doing."""
    service = service_of(request)
    models = {name: _health(served) for name, served in service.models.items()}
    first = next(iter(service.models))
    status = "draining" if service.is_draining else "ok"
    return JSONResponse({"status": status, "model": first, **models[first], "models": models})


def _health(served: ServedModel) -> dict:
    return {
        "requests": served.thread.num_requests,
        "cache": served.engine.cache.ledger.counts(),
        "cache_bytes": served.engine.cache.nbytes,
        "cpu_backend": native.backend(),
        "notes": list(served.engine.notes),
        "parsers": served.format.names(),
    }


@router.get("/ready")
async def ready(request: Request) -> JSONResponse:
    """200 while new requests are taken; 503 while the server ends or one of its models does not answer."""
    service = service_of(request)
    alive = all(served.thread.is_alive for served in service.models.values())
    is_ready = alive and not service.is_draining
    body = {"status": "ready" if is_ready else "not ready"}
    return JSONResponse(body, status_code=200 if is_ready else 503, headers=None if is_ready else {"Retry-After": "5"})


@router.get("/v1/models", dependencies=[Depends(client_of)])
async def models(request: Request) -> JSONResponse:
    data = [served.body() for served in service_of(request).models.values()]
    return JSONResponse({"object": "list", "data": data, "has_more": False})


@router.get("/v1/models/{name:path}", dependencies=[Depends(client_of)])
async def model(request: Request, name: str) -> JSONResponse:
    return JSONResponse(service_of(request).model(name).body())
