"""Which tools answers may use, as data."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from hyla.models.config import Config, Count
from hyla.rl.rewards.config import Seconds


class ToolsConfig(Config):
    """The [rl.rollout.tools] table."""

    file: str
    """A Python file: each of its functions whose name does not begin with _ is a tool."""
    max_turns: Annotated[int, Field(ge=1, le=1000)] = 8
    """Most turns that the model writes in one answer; calls of the last one are not made."""
    turn_tokens: Count | None = None
    """Longest turn; None: as long as `rl.rollout.max_tokens`, which all turns share, has tokens left."""
    result_chars: Annotated[int, Field(ge=1, le=100_000)] = 4000
    """Longest result of a call, in characters; what is beyond is cut off."""
    timeout_seconds: Seconds = 10.0
    """Of one call; past it its process is ended and started again."""
    processes: Annotated[int, Field(ge=1, le=256)] = 1
    """How many calls are made at once, beside the answers that the engine computes meanwhile."""
    memory_gib: Annotated[float, Field(gt=0)] = 8.0
    """Address space of each of these processes."""

    @field_validator("file")
    @classmethod
    def _is_python(cls, value: str) -> str:
        if not value.endswith(".py"):
            raise ValueError("write FILE.py, a file of Python functions")
        return value
