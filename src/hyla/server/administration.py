"""The admin actions as calls of an engine. The one file to change when it learns another."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from hyla.engine.hosting.handle import EngineHandle
from hyla.errors import CapacityError, HylaError, RequestError
from hyla.server.reading.errors import HTTPFailure
from hyla.server.watch.aside import aside

ACTIONS: Mapping[str, str] = {
    "pause": "pause",
    "resume": "resume",
    "sleep": "sleep",
    "wake": "wake",
    "weights": "update_weights",
    "status": "status",
}
"""The method of `EngineHandle` for each route; the body's fields are its keyword arguments."""


async def administer(worker: EngineHandle, action: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Do it and wait until it is done; returns what the engine tells.

    Raises 404 for an unknown action, 409 for one that cannot be now.
    """
    if action not in ACTIONS:
        known = ", ".join(ACTIONS)
        raise HTTPFailure(404, f"there is no admin action {action!r}; choose one of {known}", code="unknown_action")
    try:
        told = await aside(getattr(worker, ACTIONS[action]), **fields)
        if isinstance(told, Future):
            told = await asyncio.wrap_future(told)
    except (RequestError, CapacityError, HTTPFailure):
        raise
    except HylaError as error:
        raise HTTPFailure(409, str(error), code="not_possible") from error
    return dict(told) if isinstance(told, Mapping) else {}
