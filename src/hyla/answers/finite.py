"""Schemas that refer to themselves without an end: no value fits those, and a grammar of them has a dead end."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from hyla.answers.schemas import TooComplex, target_of


def with_finite_values(schema: Any) -> Any:
    """The schema, with false in place of each reference to what no finite value fits. The schema itself is not changed.

    >>> with_finite_values({"$defs": {"d": {"$ref": "#/$defs/d"}}, "anyOf": [{"$ref": "#/$defs/d"}, {"type": "null"}]})
    {'$defs': {'d': False}, 'anyOf': [False, {'type': 'null'}]}
    """
    work = _Values(schema)
    work.run()
    if not work.references:
        return schema
    empty = {reference for reference, node in work.references.items() if node not in work.met}
    return _without(schema, empty) if empty else schema


def _without(part: Any, empty: set[str]) -> Any:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str) and part["$ref"] in empty:
            return False
        return {name: _without(value, empty) for name, value in part.items()}
    return [_without(value, empty) for value in part] if isinstance(part, list) else part


class _Values:
    """Which parts of a schema a finite value may fit, as far as references go: the least solution of "a part has a
    value when these parts have one", found in linear time (Dowling and Gallier 1984)."""

    def __init__(self, root: Any):
        self.root = root
        self.met: set[int] = set()
        """Nodes that have a value."""
        self.references: dict[str, int] = {}
        """Nodes of what references point to."""
        self._unseen: list[str] = []
        """References whose targets have no node yet: a chain of them is not followed by recursion."""
        self._missing: list[int] = []
        """By node: how many of its conditions are still to be met."""
        self._waiting: defaultdict[int, list[int]] = defaultdict(list)
        """By node: those that it is a condition of."""

    def run(self) -> None:
        if isinstance(self.root, dict):
            self._part(self.root)
        while self._unseen:
            reference = self._unseen.pop()
            try:
                target = target_of(reference, self.root)
            except TooComplex:
                target = True  # whoever compiles it says so
            self._waiting[self._part(target)].append(self.references[reference])
        new = [node for node, missing in enumerate(self._missing) if not missing]
        while new:
            node = new.pop()
            if node in self.met:
                continue
            self.met.add(node)
            for other in self._waiting[node]:
                self._missing[other] -= 1
                if self._missing[other] <= 0:
                    new.append(other)

    def _node(self, conditions: list[int], needed: int | None = None) -> int:
        """A node that has a value when so many of its conditions have one; None: all of them."""
        node = self._new(len(conditions) if needed is None else needed)
        for condition in conditions:
            self._waiting[condition].append(node)
        return node

    def _new(self, missing: int) -> int:
        self._missing.append(missing)
        return len(self._missing) - 1

    def _part(self, part: Any) -> int:
        """The node of a schema."""
        if not isinstance(part, dict):
            return self._new(int(part is False))
        conditions = []
        if isinstance(part.get("$ref"), str):
            conditions.append(self._target(part["$ref"]))
        for name in ("anyOf", "oneOf"):
            if isinstance(part.get(name), list) and part[name]:
                conditions.append(self._node([self._part(one) for one in part[name]], 1))
        if isinstance(part.get("allOf"), list):
            conditions += [self._part(one) for one in part["allOf"]]
        types = part.get("type")
        types = types if isinstance(types, list) else [types]
        nested = {"object": self._object(part), "array": self._array(part)}
        if all(kind in ("object", "array") for kind in types):
            conditions.append(self._node([nested[str(kind)] for kind in types], 1))
        return self._node(conditions)

    def _target(self, reference: str) -> int:
        if reference not in self.references:
            self.references[reference] = self._new(1)
            self._unseen.append(reference)
        return self.references[reference]

    def _object(self, part: dict[str, Any]) -> int:
        nodes = {name: self._part(schema) for name, schema in _dict(part.get("properties")).items()}
        patterns = _dict(part.get("patternProperties"))
        for schema in patterns.values():
            self._part(schema)
        others = self._part(part.get("additionalProperties", True))
        # A pattern may say more of a name, or give it its only schema.
        other = self._new(0) if patterns else others
        return self._node([nodes.get(name, other) for name in _list(part.get("required")) if isinstance(name, str)])

    def _array(self, part: dict[str, Any]) -> int:
        first, items = part.get("prefixItems"), part.get("items", True)
        if isinstance(items, list):
            first, items = items, part.get("additionalItems", True)
        nodes = [self._part(schema) for schema in _list(first)]
        others = self._part(items)
        fewest = part.get("minItems", 0)
        fewest = min(fewest, len(nodes) + 1) if isinstance(fewest, int | float) else 0
        return self._node([*nodes, others][: max(0, int(fewest))])


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
