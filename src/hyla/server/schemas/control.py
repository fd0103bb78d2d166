"""Bodies of the routes that steer a server."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hyla.server.schemas.fields import Body


class AbortRequest(Body):
    """POST /abort."""

    request_id: Annotated[str, Field(min_length=1, max_length=256)]
    """The `id` of an answer."""


class ModelRequest(Body):
    """POST /admin/resume, /admin/sleep, /admin/wake and /admin/status: of one model."""

    model: str | None = None
    """None: the only one."""


class PauseRequest(ModelRequest):
    """POST /admin/pause."""

    mode: Literal["wait", "abort", "keep"] | None = None
    """What happens to running answers; None: the engine's default."""


class WeightsRequest(ModelRequest):
    """POST /admin/weights."""

    folder: Annotated[str, Field(min_length=1, max_length=4096)]
    """A model folder of the same shape on the server's disk."""
