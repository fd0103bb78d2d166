"""What is wrong with a request's body, in one sentence, from pydantic's list of everything that does not fit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from hyla.errors import RequestError

OUGHT = "Input should be "

OBJECTS = ("dict_type", "mapping_type", "model_type", "model_attributes_type")
"""pydantic's words for what JSON calls an object."""


@dataclass(frozen=True)
class Mistake:
    """One of pydantic's errors, with its place as the client would write it."""

    details: ErrorDetails
    path: tuple[str | int, ...]
    """Names and places in the body."""
    branch: tuple[str | int, ...]
    """The alternative of a union that pydantic tried here, with what leads to it; empty outside of unions."""

    @property
    def is_wrong_type(self) -> bool:
        """Whether a field `type` says that another alternative is meant."""
        return self.path[-1:] == ("type",) and self.details["type"] == "literal_error"


def request_error(error: ValidationError, body: Mapping[str, Any]) -> RequestError:
    """The error for a body that does not fit its schema."""
    mistakes = [_mistake(details, body) for details in error.errors(include_url=False)]
    meant = _meant([mistake for mistake in mistakes if mistake.path[:1] == mistakes[0].path[:1]])
    first = meant[0]
    name = str(first.path[0])[:80] if first.path else None
    where = written(first.path) or "the body"
    kind = first.details["type"]
    if kind == "extra_forbidden":
        return RequestError(f"{where} is not a field of this request; remove it or check its spelling", name)
    if kind == "missing":
        said = "every request needs it" if len(first.path) == 1 else "add it"
        return RequestError(f"{where} is missing; {said}", name)
    if kind == "value_error":
        return RequestError(f"{where} {first.details.get('ctx', {})['error']}", name)
    return RequestError(f"{where} = {short(first.details.get('input'))}: {_said(meant)}", name)


def written(path: Sequence[str | int]) -> str:
    """A place as people write it: messages[2].content."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part:.80}" for part in path)
    return "".join(parts).removeprefix(".")


def _mistake(details: ErrorDetails, body: Any) -> Mistake:
    value: Any = body
    path: list[str | int] = []
    branch: tuple[str | int, ...] = ()
    for n, part in enumerate(details["loc"]):
        is_last = n == len(details["loc"]) - 1
        if _has(value, part):
            value = value[part]
        elif not (is_last and details["type"] == "missing"):
            # pydantic names the alternative that it tried.
            branch = details["loc"][: n + 1]
            continue
        path.append(part)
    return Mistake(details, tuple(path), branch)


def _has(value: Any, part: int | str) -> bool:
    """Whether a part of a body has this name or place."""
    if isinstance(value, list):
        return isinstance(part, int) and part < len(value)
    return isinstance(value, Mapping) and part in value


def _meant(mistakes: Sequence[Mistake]) -> list[Mistake]:
    """The mistakes to tell, all at one place: of a union those of the alternatives that fit best."""
    if not any(mistake.branch for mistake in mistakes):
        return list(mistakes[:1])
    wrong = {mistake.branch for mistake in mistakes if mistake.is_wrong_type}
    fitting = [mistake for mistake in mistakes if mistake.branch not in wrong]
    # What was sent is inside of an alternative that fits, or names one that there is not, or is something else.
    known = (
        [mistake for mistake in fitting if len(mistake.path) > 1]
        or [mistake for mistake in mistakes if mistake.is_wrong_type]
        or list(mistakes)
    )
    deepest = max(len(mistake.path) for mistake in known)
    farthest = max(
        (mistake.path for mistake in known if len(mistake.path) == deepest), key=lambda path: list(map(str, path))
    )
    return [mistake for mistake in known if mistake.path == farthest]


def _said(mistakes: Sequence[Mistake]) -> str:
    """What pydantic wants, of each alternative once."""
    told = (
        OUGHT + "an object" if mistake.details["type"] in OBJECTS else mistake.details["msg"] for mistake in mistakes
    )
    texts = list(dict.fromkeys(told))
    if not all(text.startswith(OUGHT) for text in texts):
        return texts[0]
    return OUGHT + " or ".join(text.removeprefix(OUGHT) for text in texts)


def short(value: Any) -> str:
    """A value as JSON, cut to a line."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."
