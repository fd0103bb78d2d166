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
    """POST /admin/resume, /admin/wake and /admin/status: of one model."""

    model: str | None = None
    """None: the only one."""


class PauseRequest(ModelRequest):
    """POST /admin/pause."""

    mode: Literal["finish", "keep", "abort"] | None = None
    """What happens to running answers: they are finished first (the default), kept for later, or ended."""


class SleepRequest(ModelRequest):
    """POST /admin/sleep."""

    release_weights: bool | None = None
    """Free the weights' memory, too; new ones must come before the engine can go on."""


class WeightsRequest(ModelRequest):
    """POST /admin/weights."""

    source: Annotated[str, Field(min_length=1, max_length=4096)]
    """A model folder, or a safetensors file, of the same shape on the server's disk."""
