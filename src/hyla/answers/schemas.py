"""What a JSON schema asks of one value: references followed, unions and conjunctions unfolded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

KINDS = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})
"""JSON schema's types; "number" are those that are no integers."""
MOST_STEPS = 1000
"""Schemas to look at while one is unfolded."""
MOST_BRANCHES = 64
COMBINATORS = ("$ref", "anyOf", "oneOf", "allOf")

Branch = tuple[dict[str, Any], ...]
"""Schemas that hold all at once, none with a reference, a union or a conjunction on its top."""


class TooComplex(ValueError):
    """The schema has more alternatives than are worth following, or refers to itself or to nothing."""


def branches_of(schema: Any, root: Any) -> list[Branch]:
    """The alternatives of a schema: a value is valid where one of them holds (of `oneOf`: exactly one).

    root: what references point into. Raises TooComplex.

    >>> branches_of({"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]}, {"$defs": {"a": {"type": "string"}}})
    [({'type': 'string'},), ({'type': 'null'},)]
    """
    return _Unfolding(root).branches(schema, ())


class _Unfolding:
    def __init__(self, root: Any):
        self.root, self.num_steps = root, 0

    def branches(self, schema: Any, followed: tuple[str, ...]) -> list[Branch]:
        """followed: references on the way here."""
        self.num_steps += 1
        if self.num_steps > MOST_STEPS or len(followed) > MOST_BRANCHES:
            raise TooComplex("it has too many alternatives or references")
        if schema is False:
            return []
        if not isinstance(schema, dict):
            return [()]
        own = {name: value for name, value in schema.items() if name not in COMBINATORS}
        parts: list[list[Branch]] = [[(own,)] if own else [()]]
        reference = schema.get("$ref")
        if isinstance(reference, str):
            if reference in followed:
                raise TooComplex(f"{reference!r} refers to itself")
            parts.append(self.branches(target_of(reference, self.root), (*followed, reference)))
        for name in ("anyOf", "oneOf"):
            if isinstance(schema.get(name), list):
                parts.append([branch for one in schema[name] for branch in self.branches(one, followed)])
        if isinstance(schema.get("allOf"), list):
            parts += [self.branches(one, followed) for one in schema["allOf"]]
        return self._all_of(parts)

    @staticmethod
    def _all_of(parts: list[list[Branch]]) -> list[Branch]:
        made: list[Branch] = [()]
        for part in parts:
            made = [one + other for one, other in product(made, part)]
            if len(made) > MOST_BRANCHES:
                raise TooComplex("it has too many alternatives")
        return made


def target_of(reference: str, root: Any) -> Any:
    """What a JSON pointer (`#/$defs/name`) points to. Raises TooComplex when that is nothing.

    >>> target_of("#/$defs/a~1b", {"$defs": {"a/b": 3}})
    3
    """
    found = root
    for part in reference.removeprefix("#").split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict) and name in found:
            found = found[name]
        elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        else:
            raise TooComplex(f"{reference!r} points to nothing")
    if reference != "#" and not reference.startswith("#/"):
        raise TooComplex(f"{reference!r} is no JSON pointer")
    return found


@dataclass(frozen=True)
class Wanted:
    """What one value may be."""

    kinds: frozenset[str] = KINDS
    values: tuple[Any, ...] | None = None
    """The only values, where `enum` and `const` name them all."""

    @property
    def is_text(self) -> bool:
        """Whether it is a string, whatever its text."""
        return self.kinds == {"string"}

    @property
    def is_free(self) -> bool:
        """Whether the schema says nothing about it."""
        return self.kinds == KINDS and self.values is None


def wanted_of(schema: Any, root: Any) -> Wanted:
    """What a schema asks for; anything, where it cannot be followed."""
    try:
        found = [_of_branch(branch) for branch in branches_of(schema, root)]
    except TooComplex:
        return Wanted()
    found = [one for one in found if one.kinds]
    if not found:
        return Wanted()
    lists = [one.values for one in found]
    values = None if None in lists else tuple(value for one in lists for value in one or ())
    return Wanted(frozenset[str]().union(*(one.kinds for one in found)), values)


def _of_branch(branch: Branch) -> Wanted:
    kinds = KINDS.intersection(*(kinds_of(schema) for schema in branch))
    lists = [_listed(schema) for schema in branch if "const" in schema or isinstance(schema.get("enum"), list)]
    if lists:
        kept = [value for value in lists[0] if all(value_in(value, other) for other in lists[1:])]
        values = tuple(value for value in kept if kind_of(value) in kinds)
        return Wanted(frozenset(kind_of(value) for value in values), values)
    if kinds <= {"null", "boolean"}:
        return Wanted(kinds, tuple(value for value in (None, True, False) if kind_of(value) in kinds))
    return Wanted(kinds)


def _listed(schema: Mapping[str, Any]) -> list[Any]:
    return [schema["const"]] if "const" in schema else schema["enum"]


def kinds_of(schema: Mapping[str, Any]) -> frozenset[str]:
    """The kinds that `type` leaves; all, where it says nothing or has words of its own."""
    given = schema.get("type")
    given = given if isinstance(given, list) else [given]
    names = [name for name in given if isinstance(name, str) and name in KINDS]
    if not names or len(names) < len(given):
        return KINDS
    more = {"integer"} if "number" in names else set()
    return frozenset(names) | more | ({"null"} if schema.get("nullable") is True else set())


def kind_of(value: Any) -> str:
    """The kind of a JSON value.

    >>> [kind_of(value) for value in (None, True, 3, 3.0, 3.5, "3", [], {})]
    ['null', 'boolean', 'integer', 'integer', 'number', 'string', 'array', 'object']
    """
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    if isinstance(value, int | float):
        return "integer" if isinstance(value, int) or value.is_integer() else "number"
    return "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"


def value_in(value: Any, values: Any) -> bool:
    """Whether a JSON value is among others; 1 is not true."""
    return any(value == other and kind_of(value) == kind_of(other) for other in values)


def properties_of(root: Any) -> dict[str, Any]:
    """The schemas of an object's properties, also of those that a reference, a union or a conjunction brings in."""
    try:
        branches = branches_of(root, root)
    except TooComplex:
        branches = [(root,)] if isinstance(root, dict) else []
    found: dict[str, list[Any]] = {}
    for branch in branches:
        for name, schema in branch_properties(branch).items():
            if schema not in found.setdefault(name, []):
                found[name].append(schema)
    return {name: schemas[0] if len(schemas) == 1 else {"anyOf": schemas} for name, schemas in found.items()}


def branch_properties(branch: Branch) -> dict[str, Any]:
    """The schemas of an object's properties in one alternative."""
    found: dict[str, list[Any]] = {}
    for part in branch:
        properties = part.get("properties")
        for name, schema in properties.items() if isinstance(properties, dict) else ():
            found.setdefault(name, []).append(schema)
    return {name: schemas[0] if len(schemas) == 1 else {"allOf": schemas} for name, schemas in found.items()}
