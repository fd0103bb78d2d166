"""The errors of Hyla. Each message names the thing, the value, and the way out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any


class HylaError(Exception):
    """Base of every error that Hyla raises on purpose."""


class ConfigError(HylaError):
    """A configuration field is unknown, missing, out of range, or contradicts another one."""


class DivergedError(ConfigError):
    """A training whose numbers are no longer finite, or whose gradients grew too fast: its rates do not suit it."""


class CheckpointError(HylaError):
    """A checkpoint folder or tensor file is missing, damaged, or does not fit the model."""


class BackendUnavailable(HylaError):
    """The chosen backend cannot compute this on this machine; the message gives the reason and the alternatives."""


class CapacityError(HylaError):
    """A request needs more memory than the engine was given, even when it runs alone."""


class RequestError(HylaError):
    """A request is not valid. `param` names the offending field, as in OpenAI's error body; `code` says which kind of
    error it is, where programs tell them apart."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.param, self.code = param, code


class FieldError(RequestError):
    """A RequestError about fields of the request, as data: a program can read what is wrong, and whoever knows the
    request under other names can tell it in those.

    template: the text, in which {name} stands for one of `values`, or else for a field of the request.
    value, limit: what the field was and the most (or least) that it may be, where that is one number or text; they and
    all other `values` are plain data.

    >>> error = FieldError("{max_tokens} is {value}, at most {limit} fit", "max_tokens", value=9, limit=5)
    >>> str(error), error.told({"max_tokens": "max_output_tokens"})
    ('max_tokens is 9, at most 5 fit', 'max_output_tokens is 9, at most 5 fit')
    """

    def __init__(self, template: str, param: str | None = None, code: str | None = None, **values: Any):
        self.template, self.values = template, values
        self.value, self.limit = values.get("value"), values.get("limit")
        super().__init__(self.told({}), param, code)

    def told(self, names: Mapping[str, str]) -> str:
        """The text with other names for fields, or other words for values."""
        return self.template.format_map(_Words({**self.values, **names}))

    def __reduce__(self):
        return partial(type(self), param=self.param, code=self.code, **self.values), (self.template,)


class _Words(dict):
    """A name that stands for nothing else is a field's own."""

    def __missing__(self, name: str) -> str:
        return name
