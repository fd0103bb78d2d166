"""What a JSON schema asks of one value: references followed, unions and conjunctions unfolded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


@dataclass(frozen=True)
class Unfolded:
    """The alternatives of a schema: a value is valid where one of them holds."""

    branches: list[Branch]
    has_one_of: bool
    """Whether some come from a `oneOf`, of which only one may hold."""


def unfold(schema: Any, root: Any) -> Unfolded:
    """root: what references point into. Raises TooComplex.

    >>> unfold({"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]}, {"$defs": {"a": {"type": "string"}}}).branches
    [({'type': 'string'},), ({'type': 'null'},)]
    """
    work = Unfolding(root)
    branches = work.branches(schema)
    return Unfolded(branches, work.has_one_of)


class Unfolding:
    """Unfolds schemas of one root, in so many steps altogether."""

    def __init__(self, root: Any, most_steps: int = MOST_STEPS):
        self.root, self.most_steps, self.num_steps, self.has_one_of = root, most_steps, 0, False

    def branches(self, schema: Any, followed: tuple[str, ...] = ()) -> list[Branch]:
        """The alternatives of a schema. followed: references on the way here. Raises TooComplex."""
        self.num_steps += 1
        if self.num_steps > self.most_steps or len(followed) > MOST_BRANCHES:
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
                self.has_one_of = self.has_one_of or (name == "oneOf" and len(schema[name]) > 1)
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

    kinds: frozenset[str] = KINDS - {"null", "boolean"}
    """Kinds of which it may be any value."""
    values: tuple[Any, ...] = (None, True, False)
    """Single values beside them: those of `enum` and `const`, null, true and false."""


def wanted_of(schema: Any, root: Any) -> Wanted:
    """What a schema asks for; anything, where it cannot be followed or nothing fits it."""
    try:
        wanted = wanted_by(unfold(schema, root).branches)
    except TooComplex:
        return Wanted()
    return wanted if wanted.kinds or wanted.values else Wanted()


def wanted_by(branches: Sequence[Branch]) -> Wanted:
    """What the alternatives of a schema ask for; nothing, where nothing fits them."""
    kinds: frozenset[str] = frozenset()
    values: list[Any] = []
    for branch in branches:
        listed = listed_values(branch)
        if listed is None:
            own = branch_kinds(branch)
            kinds |= own - {"null", "boolean"}
            listed = [value for value in (None, True, False) if kind_of(value) in own]
        values += [value for value in listed if not value_in(value, values)]
    return Wanted(kinds, tuple(values))


def branch_kinds(branch: Branch) -> frozenset[str]:
    """The kinds that all schemas of an alternative leave."""
    return KINDS.intersection(*(kinds_of(schema) for schema in branch))


def listed_values(branch: Branch) -> list[Any] | None:
    """The values that `enum` and `const` leave of an alternative; None without them."""
    lists = [_listed(schema) for schema in branch if "const" in schema or isinstance(schema.get("enum"), list)]
    if not lists:
        return None
    kinds = branch_kinds(branch)
    return [one for one in lists[0] if kind_of(one) in kinds and all(value_in(one, other) for other in lists[1:])]


def _listed(schema: Mapping[str, Any]) -> list[Any]:
    """Of a schema with both, what both allow."""
    if not isinstance(schema.get("enum"), list):
        return [schema["const"]]
    return [one for one in schema["enum"] if "const" not in schema or value_in(one, [schema["const"]])]


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
        branches = unfold(root, root).branches
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
