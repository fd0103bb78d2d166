"""Random JSON schemas, small enough that a random writer comes to their end."""

from __future__ import annotations

import random
from typing import Any

NAMES = ("a", "b", "ab", "x-1", "é", 'q"', "b\\", "", "__class__", "\U0001f600")
PATTERNS = (
    "^a", "b$", "^[a-c]{1,3}$", "^x-", "[0-9]", "^a+$", ".", "^(a|b)$", "^a$", "^[0-9]{2}$", "é", "^[^a]*$", "a|^b",
    "^.{2}$", "^(?!a)b", "^(?=.*b)a", "^a.*b$", "(a", "^ab?$", "^$", "^[a-z-]{1,4}$", "^\\u00e9$",
)  # fmt: skip
"""Without what Python and the standard read differently (`\\w`, `\\d` and `\\s`)."""
FORMATS = ("date", "uuid", "ipv4", "time", "date-time", "email", "hostname", "uri", "password", "int64", "binary", "x")
VALUES = (None, True, False, 0, 1, -3, 2.5, 1e9, "", "a", "é", 'say "x"', [], [1], {}, {"a": 1})
HUGE = (10**400, -(10**30), 2**63, 1e308, 10_000, 2**31, 0.1, -1, 1e-9)
TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")


"""Without what Python and the standard read differently (\\w, \\d and \\s)."""


def random_schema(draw: random.Random, depth: int = 3, *, is_wild: bool = False) -> Any:
    """A schema that may contradict itself. is_wild: with huge numbers and with values where they do not belong."""
    work = _Writer(draw, is_wild)
    schema = work.schema(depth)
    if isinstance(schema, dict) and draw.random() < 0.6:
        schema["$defs"] = {name: work.schema(depth - 1) for name in ("d", "e")}
    return schema


class _Writer:
    def __init__(self, draw: random.Random, is_wild: bool):
        self.draw, self.is_wild = draw, is_wild
        self.refers = False
        """Whether it is inside of a list or an object, so that a reference is no loop."""

    def maybe(self, chance: float) -> bool:
        return self.draw.random() < chance

    def count(self, most: int = 3) -> Any:
        return self.draw.choice(HUGE) if self.is_wild and self.maybe(0.1) else self.draw.randint(0, most)

    def number(self) -> Any:
        if self.is_wild and self.maybe(0.2):
            return self.draw.choice(HUGE)
        return self.draw.choice([0, 1, -1, 7, 100, 0.5, -2.25, 1e3])

    def schema(self, depth: int) -> Any:
        draw = self.draw
        if self.is_wild and self.maybe(0.03):
            return draw.choice([True, False, {}, [], "x", 3, None])
        if self.maybe(0.04):
            return draw.choice([True, False, {}])
        if self.maybe(0.12):
            return {
                draw.choice(["anyOf", "oneOf", "allOf"]): [self.schema(depth - 1) for _ in range(draw.randint(1, 3))]
            }
        if self.refers and self.maybe(0.1):
            return {"$ref": draw.choice(["#/$defs/d", "#/$defs/e", "#"])}
        if self.maybe(0.1):
            return (
                {"enum": draw.sample(VALUES, draw.randint(1, 4))} if self.maybe(0.7) else {"const": draw.choice(VALUES)}
            )
        kind = draw.choice(TYPES if depth > 0 else TYPES[:5])
        refers, self.refers = self.refers, kind in ("array", "object")
        made = getattr(self, f"_{kind}", dict)(*([depth] if kind in ("array", "object") else []))
        self.refers = refers
        made = {"type": kind if self.maybe(0.9) else [kind, draw.choice(TYPES)]} | made
        if self.maybe(0.05):
            made |= draw.choice([{"title": "t", "description": "d"}, {"default": 3}, {"nullable": True}, {"x-own": 1}])
        if self.maybe(0.03):
            made |= {draw.choice(["not", "if"]): self.schema(0)}
        if self.maybe(0.05):
            made |= {draw.choice(["anyOf", "allOf", "oneOf"]): [self.schema(0) for _ in range(2)]}
        return made

    def _integer(self) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for word in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
            if self.maybe(0.25):
                made[word] = self.number()
        if self.maybe(0.15):
            made["multipleOf"] = self.draw.choice([1, 2, 3, 0.5, 7, 0.25])
        return made

    _number = _integer

    def _string(self) -> dict[str, Any]:
        made: dict[str, Any] = {"maxLength": self.count(5)} if self.maybe(0.7) else {}
        if self.maybe(0.2):
            made["minLength"] = self.count(3)
        if self.maybe(0.2):
            made["pattern"] = self.draw.choice(PATTERNS)
        if self.maybe(0.15):
            made["format"] = self.draw.choice(FORMATS)
        return made

    def _array(self, depth: int) -> dict[str, Any]:
        made: dict[str, Any] = {"items": self.schema(depth - 1), "maxItems": self.count(3)}
        if self.maybe(0.3):
            made["minItems"] = self.count(2)
        if self.maybe(0.15):
            made["prefixItems"] = [self.schema(depth - 1) for _ in range(self.draw.randint(1, 2))]
        if self.maybe(0.08):
            made |= self.draw.choice([{"uniqueItems": True}, {"contains": self.schema(0)}, {"uniqueItems": False}])
        return made

    def _object(self, depth: int) -> dict[str, Any]:
        draw = self.draw
        names = draw.sample(NAMES, draw.randint(0, 3))
        made: dict[str, Any] = {"properties": {name: self.schema(depth - 1) for name in names}}
        if self.maybe(0.6):
            made["required"] = draw.sample(names, draw.randint(0, len(names))) + (["zz"] if self.maybe(0.1) else [])
        if self.maybe(0.3):
            chosen = draw.sample(PATTERNS, draw.randint(1, 2))
            made["patternProperties"] = {pattern: self.schema(depth - 1) for pattern in chosen}
        if self.maybe(0.6):
            made["additionalProperties"] = self.schema(depth - 1) if self.maybe(0.3) else False
        for word in ("minProperties", "maxProperties"):
            if self.maybe(0.1):
                made[word] = self.count(3)
        if self.maybe(0.06):
            made |= draw.choice(
                [
                    {"propertyNames": {"maxLength": 2}},
                    {"dependentRequired": {"a": ["b"]}},
                    {"unevaluatedProperties": False},
                ]
            )
        return made
