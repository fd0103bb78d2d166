"""The base of all request bodies, and marks for fields that are known and do nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import core_schema


@dataclass(frozen=True)
class FirstMistakeOnly:
    """pydantic's own FailFast cannot be part of a union, since it has no hash."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> dict:
        return {**handler(source), "fail_fast": True}


Item = TypeVar("Item")

Items = Annotated[list[Item], FirstMistakeOnly()]
"""A list that is refused at its first wrong item: one error for each of a million would keep the server busy."""


class Body(BaseModel):
    """Unknown names are errors. None means the default."""

    model_config = ConfigDict(extra="forbid")


MOST_ECHOED_BYTES = 1 << 16


@dataclass(frozen=True)
class Echoed:
    """The answer, and what is kept of it, repeat the value: it has few bytes as JSON."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    @staticmethod
    def _check(value: Any) -> Any:
        if is_larger(value, MOST_ECHOED_BYTES):
            raise ValueError(f"has more than {MOST_ECHOED_BYTES} bytes, and the answer repeats it; shorten it")
        return value


def is_larger(value: Any, most_bytes: int) -> bool:
    """Whether a value has more bytes as JSON; no more of it is written than tells."""
    num = 0
    for piece in json.JSONEncoder().iterencode(value):
        num += len(piece)
        if num > most_bytes:
            return True
    return False


@dataclass(frozen=True)
class NoEffect:
    """The field is accepted with any value and changes nothing."""

    reason: str


@dataclass(frozen=True)
class OnlyNeutral:
    """The field is known and not supported: only values that ask for nothing are let through."""

    values: tuple = ()
    instead: str = "leave it out"

    def __get_pydantic_json_schema__(self, core_schema, handler: GetJsonSchemaHandler) -> dict:
        return {"enum": [None, *self.values]}


ModelOnly = Annotated[Any, OnlyNeutral((["direct"],), "this server runs no code that could call it; leave it out")]
"""Who may call a tool: the model, and nobody else."""

Bookkeeping = Annotated[Any, NoEffect("it is bookkeeping of a hosted service")]

MAX_TOP_LOGPROBS = 20
"""OpenAI's limit for chat."""

TopLogprobs = Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)]
