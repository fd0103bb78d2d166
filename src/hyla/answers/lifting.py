"""Schemas that move into another one: their references have to point to the new root."""

from __future__ import annotations

from typing import Any

from hyla.answers.schemas import TooComplex, target_of
from hyla.errors import RequestError

ONE = frozenset(
    {
        "additionalItems", "additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then",
        "unevaluatedItems", "unevaluatedProperties",
    }
)  # fmt: skip
"""Keywords whose value is a schema (of `items` also a list of them)."""
SEVERAL = frozenset({"allOf", "anyOf", "items", "oneOf", "prefixItems"})
"""Keywords whose value is a list of schemas."""
NAMED = frozenset({"dependentSchemas", "patternProperties", "properties"})
"""Keywords whose value has a schema under each name."""
DROPPED = frozenset(
    {"$comment", "$defs", "$id", "$schema", "default", "definitions", "deprecated", "description", "examples", "title"}
)
"""Definitions, which are lifted where something refers to them, and what asks for nothing."""


class Definitions:
    """The `$defs` of a new root, under names that are unique in it."""

    def __init__(self):
        self.found: dict[str, Any] = {}

    def lift(self, schema: Any, root: Any, owner: str) -> Any:
        """A schema with its references pointed at these definitions, to which what it refers to is added.

        root: what its references point into. owner: of the root, for people. Raises RequestError for a reference to
        nothing.
        """
        return _Lifting(self, root, owner).run(schema)

    def with_root(self, schema: dict[str, Any]) -> dict[str, Any]:
        """A root schema with the definitions in it."""
        return schema | {"$defs": self.found} if self.found else schema


class _Lifting:
    """The schemas of one root on their way to another."""

    def __init__(self, definitions: Definitions, root: Any, owner: str):
        self.definitions, self.root, self.owner = definitions, root, owner
        self._names: dict[str, str] = {}
        """New names, by reference."""
        self._waiting: list[str] = []
        """References whose targets are still to come."""

    def run(self, schema: Any) -> Any:
        moved = self._moved(schema)
        while self._waiting:
            reference = self._waiting.pop()
            self.definitions.found[self._names[reference]] = self._moved(self._target(reference))
        return moved

    def _target(self, reference: str) -> Any:
        try:
            return target_of(reference, self.root)
        except TooComplex as error:
            raise RequestError(
                f"tools: in the parameters of {self.owner!r} {error}; define it there", "tools"
            ) from error

    def _moved(self, schema: Any) -> Any:
        if not isinstance(schema, dict):
            return schema
        return {name: self._value(name, value) for name, value in schema.items() if name not in DROPPED}

    def _value(self, name: str, value: Any) -> Any:
        if name == "$ref" and isinstance(value, str):
            return f"#/$defs/{self._name_of(value)}"
        if name in NAMED and isinstance(value, dict):
            return {own: self._moved(schema) for own, schema in value.items()}
        if name in SEVERAL and isinstance(value, list):
            return [self._moved(schema) for schema in value]
        return self._moved(value) if name in ONE else value

    def _name_of(self, reference: str) -> str:
        if reference not in self._names:
            name = f"d{len(self.definitions.found)}"
            self._names[reference] = name
            self.definitions.found[name] = True
            self._waiting.append(reference)
        return self._names[reference]
