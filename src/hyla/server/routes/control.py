"""Abort by id, and the admin routes."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse

from hyla.server.administration import administer
from hyla.server.reading.body import read_body
from hyla.server.reading.errors import HTTPFailure
from hyla.server.schemas.control import AbortRequest, ModelRequest, PauseRequest, SleepRequest, WeightsRequest
from hyla.server.service import client_of, service_of

router = APIRouter()


async def admin_of(request: Request) -> None:
    """A dependency of the admin routes."""
    service_of(request).keys.check_admin(request)


@router.post("/abort")
async def abort(request: Request, client: str = Depends(client_of)) -> JSONResponse:
    """Cancel a running answer by its id; only its own client (and the admin) may."""
    service = service_of(request)
    requested = await read_body(AbortRequest, request, service.limits)
    if not service.abort(requested.request_id, client):
        message = f"request_id {requested.request_id!r} is not running; it may have finished"
        raise HTTPFailure(404, message, param="request_id", code="request_not_found")
    return JSONResponse({"request_id": requested.request_id, "aborted": True})


@router.post("/admin/{action}", dependencies=[Depends(admin_of)])
async def admin(request: Request, action: str) -> JSONResponse:
    """pause, resume, sleep, wake, weights, status of one model's engine."""
    service = service_of(request)
    schemas = {"pause": PauseRequest, "sleep": SleepRequest, "weights": WeightsRequest}
    schema = schemas.get(action, ModelRequest)
    requested = await read_body(schema, request, service.limits)
    served = service.model_or_only(requested.model)
    fields = requested.model_dump(exclude_none=True, exclude={"model"})
    told = await administer(served.worker, action, fields)
    return JSONResponse({"model": served.name, "action": action, **told})
