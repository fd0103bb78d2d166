"""Flags made from the fields of a config, so that no verb keeps a list of its own that falls behind."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable
from enum import Enum, StrEnum
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

import typer
from annotated_types import Ge, Le
from pydantic.fields import FieldInfo

from hyla.models.config import Config

Verb = TypeVar("Verb", bound=Callable[..., Any])


class FieldType(NamedTuple):
    """What a flag must know of a field: its type without None and without marks, and its range (None: open)."""

    kind: Any
    least: Any
    most: Any


def takes_fields(**configs: type[Config]) -> Callable[[Verb], Verb]:
    """Give a verb one flag for each field of some configs, by the title of their part of the help.

    The verb takes them as `**flags`; a flag that is not given is None. Raises ValueError for a name that stands twice.
    """

    def decorate(verb: Verb) -> Verb:
        signature = inspect.signature(verb, eval_str=True)
        fixed = [
            parameter
            for parameter in signature.parameters.values()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        made = [
            _flag(name, field, config, f"Options: {title}")
            for title, config in configs.items()
            for name, field in config.model_fields.items()
        ]
        parameters = [*fixed, *made]
        verb.__signature__ = signature.replace(parameters=parameters)
        verb.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return verb

    return decorate


def given_fields(config: type[Config], flags: dict[str, Any]) -> dict[str, Any]:
    """The fields of a config that flags set."""
    found = {name: flags[name] for name in config.model_fields if flags.get(name) is not None}
    return {name: value.value if isinstance(value, Enum) else value for name, value in found.items()}


def field_type(field: FieldInfo) -> FieldType:
    """Of a field with one type, or one type and None.

    >>> from pydantic import Field
    >>> field_type(FieldInfo.from_annotation(Annotated[int, Field(ge=1)] | None))
    FieldType(kind=<class 'int'>, least=1, most=None)
    """
    kind, marks = field.annotation, list(field.metadata)
    if get_origin(kind) in (Union, types.UnionType):
        (kind,) = (part for part in get_args(kind) if part is not types.NoneType)
    if get_origin(kind) is Annotated:
        kind, *inner = get_args(kind)
        marks += [mark for one in inner for mark in (one.metadata if isinstance(one, FieldInfo) else [one])]
    least = next((mark.ge for mark in marks if isinstance(mark, Ge)), None)
    most = next((mark.le for mark in marks if isinstance(mark, Le)), None)
    return FieldType(kind, least, most)


def _flag(name: str, field: FieldInfo, config: type[Config], panel: str) -> inspect.Parameter:
    kind, least, most = field_type(field)
    if get_origin(kind) is Literal:  # an enumeration is what every version of typer knows
        kind = StrEnum(name, {value: value for value in get_args(kind)})
    option = typer.Option(min=least, max=most, help=_help(field, config), rich_help_panel=panel)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _help(field: FieldInfo, config: type[Config]) -> str:
    """The field's docstring, in which other fields are named as flags, and its default."""

    def as_flag(match: re.Match) -> str:
        return f"--{match[1].replace('_', '-')}" if match[1] in config.model_fields else match[1]

    text = re.sub(r"`(\w+)`", as_flag, " ".join((field.description or "").split()))
    if field.default is None:
        return text
    default = {True: "yes", False: "no"}[field.default] if isinstance(field.default, bool) else field.default
    return f"{text} Default: {default}."
