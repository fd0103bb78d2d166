"""Where rewards come from, as data."""

from __future__ import annotations

import string
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from hyla.models.config import Config

Seconds = Annotated[float, Field(gt=0, le=86400)]


class JudgeConfig(Config):
    """A model behind an OpenAI server that gives points."""

    base_url: str
    """Such as http://127.0.0.1:8000/v1; /chat/completions is added."""
    model: str
    """Its name at the server."""
    prompt: str
    """What it is asked: {answer} is the sample, {conversation} all of its turns and calls, {prompt} what it answers,
    {NAME} a field of the task's row; {{ and }} are braces."""
    scale: Annotated[float, Field(gt=0)] = 10.0
    """Most points; points are divided by this. The prompt should tell the judge to end with a number from 0 to it."""
    api_key_env: str | None = None
    """Environment variable that holds the key; None: no key is sent."""
    timeout_seconds: Seconds = 120.0
    """Of one attempt, from asking to the last byte."""
    attempts: Annotated[int, Field(ge=1, le=100)] = 4
    """How often it is asked when it is busy (429), fails (5xx), is silent or cannot be reached."""
    concurrency: Annotated[int, Field(ge=1, le=1024)] = 8
    """Samples that are asked about at the same time."""

    @field_validator("base_url")
    @classmethod
    def _is_address(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError("an address begins with http:// or https://")
        return value

    @field_validator("prompt")
    @classmethod
    def _has_the_answer(cls, value: str) -> str:
        if not template_fields(value) & {"answer", "conversation"}:
            raise ValueError("the judge sees no sample; write {answer} where it is to stand")
        return value


def template_fields(template: str) -> set[str]:
    """Names between braces. Raises ValueError for a template that has anything else there."""
    found = set()
    for _, name, form, conversion in string.Formatter().parse(template):
        if name is not None:
            if form or conversion or not name.isidentifier():
                raise ValueError(f"{{{name}}} is no plain name; write a brace itself as {{{{ or }}}}")
            found.add(name)
    return found


class RewardConfig(Config):
    """Exactly one of `function` and `judge`."""

    function: str | None = None
    """FILE.py:NAME: a function `reward(answer: str, row: dict) -> float`; one with a third parameter `messages` gets
    the whole conversation, too."""
    judge: JudgeConfig | None = None
    timeout_seconds: Seconds = 10.0
    """Of one sample, for a function; past it its process is ended and started again."""
    processes: Annotated[int, Field(ge=1, le=256)] = 1
    """How many processes call the function at once. More: slow functions keep more cores busy."""
    memory_gib: Annotated[float, Field(gt=0)] = 8.0
    """Address space of each of these processes. A function that loads a model of its own may need more."""

    @field_validator("function")
    @classmethod
    def _names_a_function(cls, value: str | None) -> str | None:
        if value is not None:
            file, _, name = value.rpartition(":")
            if not file.endswith(".py") or not name.isidentifier():
                raise ValueError("write FILE.py:NAME, such as rewards.py:reward")
        return value

    @model_validator(mode="after")
    def _is_one_of_both(self) -> RewardConfig:
        if (self.function is None) == (self.judge is None):
            raise ValueError("give exactly one of function and judge")
        if self.judge is not None:
            for name in ("timeout_seconds", "processes", "memory_gib"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(
                        f"{name} is for a function; a judge has judge.timeout_seconds and judge.concurrency"
                    )
        return self
